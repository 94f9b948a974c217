"""Every architecture of mlx-lm at tiny size: alone, in a batch and from the prompt cache the tokens of mlx-lm."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from broker.wire.outputs import Output
from tests.every_family import families, tiny_model
from tests.tiny_families import write_model
from tests.tiny_models import EOS
from tests.worker.engine_runs import add, joined, load, run
from tests.worker.going_on import begun_after
from tests.worker.stepping import steps
from worker.text.engine import TextEngine

pytestmark = [pytest.mark.slow, pytest.mark.exact]

LENGTHS = (1, 2, 3, 9, 31, 33, 64, 100, 200)
TOKENS = 8
# Of a log-probability; what a batch computes in another order differs by a hundredth of it.
CLOSE = 2e-3

CANNOT = {
    "bitnet": "computes with a Metal kernel alone",
    "muse_spark": "computes with a Metal kernel alone",
    "olmo": "wants a package that is not installed, and ends the process without it",
    "phi3small": "writes to token ids above 100,000, however small its vocabulary",
    "prism_hadamard_qwen35": "is a format of packed weights, which nothing here makes",
}


def marked(names: list[str]) -> list[Any]:
    marks = {name: [pytest.mark.skip(reason=reason)] for name, reason in CANNOT.items()}
    return [pytest.param(name, marks=marks.get(name, [])) for name in names]


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(7 * i * i + 13 * i + 31 * length + salt) % 256 for i in range(length)]


def asks(tokens: list[int]) -> dict[str, Any]:
    return {"prompt": tokens, "temperature": 0.0, "max_tokens": TOKENS, "logprobs": 0}


def directly(engine: TextEngine, tokens: list[int]) -> list[float]:
    """The log-probabilities of the tokens that mlx-lm draws."""
    found = []
    for token, logprobs in generate_step(mx.array(tokens), engine.loaded.model, max_tokens=TOKENS):
        if token == EOS:
            break
        found.append(float(logprobs[token].item()))
    return found


def drawn(outputs: list[Output]) -> list[float]:
    body = joined(outputs)
    count = body["completion_tokens"] - (body["finish_reason"] == "stop")
    return [entry["logprob"] for entry in body["logprobs"]][:count]


@pytest.mark.parametrize("family", marked(families()))
def test_the_tokens_are_mlx_lms(family: str, tmp_path: Path) -> None:
    config, model = tiny_model(family)
    folder = write_model(tmp_path / family, {**config, "eos_token_id": EOS}, model)
    without = load(folder, prefill_step_size=32, prompt_cache_tokens=0)
    expected = {length: directly(without, prompt(length)) for length in LENGTHS}

    alone = {length: drawn(run(without, [asks(prompt(length))])[0]) for length in (1, 33, 200)}
    assert alone == {length: pytest.approx(expected[length], abs=CLOSE) for length in alone}

    together = run(without, [asks(prompt(length)) for length in LENGTHS])
    assert_close(dict(zip(LENGTHS, map(drawn, together), strict=True)), expected)

    assert_close(one_by_one(without), expected)

    engine = load(folder, prefill_step_size=32)
    for length in (40, 100):
        first = prompt(length, salt=5)
        run(engine, [asks(first)])
        (second,) = run(engine, [asks([*first, *prompt(21)])])
        assert second[-1].body["cached_tokens"] >= length - 1
        assert_close({length: drawn(second)}, {length: directly(engine, [*first, *prompt(21)])})

    for following in (without, engine):
        fields = {**asks(prompt(33)), "max_tokens": 24, "stream": True, "tells_tokens": True}
        (whole,) = run(without, [fields])
        for cut in range(1, len(whole), 3):
            (rest,) = run(following, [{**fields, "begun": begun_after(whole[:cut])}])
            assert drawn([*whole[:cut], *rest]) == pytest.approx(drawn(whole), abs=CLOSE)


def one_by_one(engine: TextEngine) -> dict[int, list[float]]:
    """Each joins after the others have gone on for some steps."""
    outputs: list[Output] = []
    ids = {}
    for number, length in enumerate(LENGTHS):
        ids[add(engine, number, **asks(prompt(length)))] = length
        for _ in range(1 + number % 3):
            outputs += engine.step()
    outputs += steps(engine)
    return {length: drawn([one for one in outputs if one.request_id == of]) for of, length in ids.items()}


def assert_close(found: dict[int, list[float]], expected: dict[int, list[float]]) -> None:
    assert found == {length: pytest.approx(expected[length], abs=CLOSE) for length in found}
