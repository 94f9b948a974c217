"""The tokens of mlx-lm called directly in one process, with the same seed and settings: alone, and in a batch of 8
with mixed settings while others join, leave and are cancelled."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from broker.wire.outputs import FINAL, Output
from tests.worker.engine_runs import add, assert_empty, joined, load, run
from tests.worker.stepping import MOST_STEPS
from worker.generation.logprobs import TokenTexts
from worker.text.engine import TextEngine

pytestmark = pytest.mark.exact

# One batch: each with a prompt, a seed and a length of its own.
GREEDY: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 1.1, "repetition_context_size": 5},
    {"presence_penalty": 2.0},
    {"presence_penalty": -1.0, "presence_context_size": 64},
    {"frequency_penalty": 1.0, "frequency_context_size": 100},
    {"logit_bias": {"40": 6.0, "41": -100}},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"7": 3.0}},
]
SAMPLED: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 9},
    {"temperature": 1.0, "min_p": 0.02, "top_p": 0.8, "top_k": 40},
    {"temperature": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1.2, "xtc_probability": 1.0, "xtc_threshold": 0.1, "min_p": 0.01, "top_p": 0.95, "top_k": 30},
    {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    {"temperature": 2.0, "top_p": 0.99, "logit_bias": {"65": 4.0, "66": -100}, "frequency_penalty": 0.5},
]
MIXED = [one for pair in zip(SAMPLED[:4], GREEDY[4:], strict=True) for one in pair]

_SAMPLER = ("top_p", "top_k", "min_p", "xtc_probability", "xtc_threshold")


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model, prefill_step_size=64)


def requests(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{number} all alike " * (number + 1),
            "seed": 2**63 - 3 + number,
            "max_tokens": 40 + 3 * number,
            "logprobs": 0,
            "temperature": 0.0,
            **fields,
        }
        for number, fields in enumerate(batch)
    ]


def directly(engine: TextEngine, fields: dict[str, Any]) -> list[tuple[bytes, float]]:
    """The bytes of each token and its log-probability, from mlx-lm alone."""
    tokenizer = engine.loaded.tokenizer
    mx.random.seed(fields["seed"])
    sampler = make_sampler(
        temp=fields["temperature"],
        **{name: value for name, value in fields.items() if name in _SAMPLER},
        # As mlx_lm.server has it.
        xtc_special_tokens=[*tokenizer.encode("\n"), *tokenizer.eos_token_ids],
    )
    penalties = {name: value for name, value in fields.items() if "penalty" in name or "context_size" in name}
    bias = {int(token): value for token, value in fields.get("logit_bias", {}).items()}
    drawn = generate_step(
        mx.array(tokenizer.encode(fields["prompt"])),
        engine.loaded.model,
        max_tokens=fields["max_tokens"],
        sampler=sampler,
        logits_processors=make_logits_processors(logit_bias=bias, **penalties),
    )
    texts = TokenTexts(tokenizer)
    rows: list[Any] = [texts.entry(token, float(logprobs[token])) for token, logprobs in drawn]
    return [(row["bytes"], row["logprob"]) for row in rows]


def of(outputs: list[Output]) -> list[tuple[bytes, float]]:
    return [(row["bytes"], row["logprob"]) for row in joined(outputs)["logprobs"]]


def assert_same(got: list[list[tuple[bytes, float]]], expected: list[list[tuple[bytes, float]]]) -> None:
    assert [[token for token, _ in one] for one in got] == [[token for token, _ in one] for one in expected]
    for one, other in zip(got, expected, strict=True):
        assert [logprob for _, logprob in one] == pytest.approx([logprob for _, logprob in other], abs=1e-3)


@pytest.mark.parametrize("batch", [GREEDY, SAMPLED, MIXED], ids=["greedy", "sampled", "mixed"])
def test_the_tokens_are_mlx_lms(engine: TextEngine, batch: list[dict[str, Any]]) -> None:
    wanted = requests(batch)
    expected = [directly(engine, fields) for fields in wanted]
    assert len({tuple(token for token, _ in one) for one in expected}) == len(batch)
    assert_same([of(run(engine, [fields])[0]) for fields in wanted], expected)
    assert_same(in_company(engine, wanted), expected)


def in_company(engine: TextEngine, wanted: list[dict[str, Any]]) -> list[list[tuple[bytes, float]]]:
    """They join one after another; guests of every kind come, end and are cancelled beside them at every step."""
    chance = random.Random(7)
    outputs: dict[bytes, list[Output]] = {}
    guests: list[bytes] = []
    for number in range(MOST_STEPS):
        if len(outputs) < len(wanted):
            outputs[add(engine, len(outputs), **wanted[len(outputs)])] = []
        elif all(of_one and of_one[-1].kind == FINAL for of_one in outputs.values()):
            break
        if chance.random() < 0.3:
            kind: dict[str, Any] = chance.choice([{}, {"seed": 1}, {"temperature": 0.0}, {"repetition_penalty": 1.2}])
            prompt = "g" * chance.randint(1, 150)
            guests.append(add(engine, 1000 + number, prompt=prompt, max_tokens=chance.randint(1, 30), **kind))
        if guests and chance.random() < 0.3:
            engine.cancel(guests.pop(chance.randrange(len(guests))))
        for output in engine.step():
            if output.request_id in outputs:
                outputs[output.request_id].append(output)
    for guest in guests:
        engine.cancel(guest)
    assert_empty(engine)
    return [of(of_one) for of_one in outputs.values()]
