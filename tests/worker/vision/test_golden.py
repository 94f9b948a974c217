"""The vision engine against mlx-vlm called directly, token for token: families alone, in a changing batch, sampled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_vision import make_tiny_vision, picture
from tests.worker.engine_runs import answer
from tests.worker.vision.vision_runs import (
    IMAGE,
    ONE,
    PROMPTS,
    TEXT_ONLY,
    THREE,
    TWO_TURNS,
    in_company,
    in_one_process,
    load,
    spoken,
    text,
    user,
)
from worker.generation.logprobs import TokenTexts
from worker.vision.engine import VisionEngine

pytestmark = pytest.mark.exact


@dataclass(frozen=True)
class Model:
    folder: Path
    engine: VisionEngine

    def tokens(self, fields: dict[str, Any], count: int, **options: Any) -> list[int]:
        """mlx-vlm's."""
        return in_one_process(self.engine, self.folder, fields, count, **options)

    def pieces(self, tokens: list[int]) -> list[Any]:
        """As log-probabilities show them."""
        return [TokenTexts(self.engine.model.tokenizer).entry(token, 0.0)["bytes"] for token in tokens]


# The second has features of its pictures for several layers.
@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = make_tiny_vision(tmp_path_factory.mktemp("vision") / "tiny", family=request.param)
    return Model(folder, load(folder))


@pytest.mark.parametrize("fields", PROMPTS.values(), ids=PROMPTS)
def test_greedy_tokens_are_mlx_vlms(model: Model, fields: dict[str, Any]) -> None:
    got = answer(model.engine, **fields, temperature=0.0, max_tokens=60, logprobs=0)
    expected = model.tokens(fields, 60)
    assert model.pieces(expected) == [entry["bytes"] for entry in got["logprobs"]]
    assert got["text"] == spoken(model.engine, expected)
    assert (got["finish_reason"], got["completion_tokens"]) == ("length", 60)
    assert answer(model.engine, **fields, temperature=0.0, max_tokens=60)["text"] == got["text"]


def test_a_long_prompt_is_read_in_pieces(model: Model) -> None:
    """The borders lie within images and between them."""
    fields = {
        "messages": [user(text("l" * 20), IMAGE, text("o" * 20), IMAGE, text("ng"), IMAGE)],
        "images": [*THREE["images"][1:], picture(7)],
    }
    expected = spoken(model.engine, model.tokens(fields, 40))
    for size in (3, 16, 50):
        engine = load(model.folder, prefill_step_size=size)
        assert answer(engine, **fields, temperature=0.0, max_tokens=40)["text"] == expected


# What is asked of the engine: name -> value, and of mlx-vlm where it has another name for it.
SAMPLED: list[dict[str, Any]] = [
    {**ONE, "temperature": 0.0},
    {**ONE, "seed": 7},
    {**THREE, "seed": 8, "temperature": 0.7, "top_p": 0.8},
    {**TWO_TURNS, "seed": 9, "top_k": 5},
    {**TEXT_ONLY, "seed": 10, "temperature": 1.5, "min_p": 0.05},
    {**ONE, "temperature": 0.0, "repetition_penalty": 1.5, "repetition_context_size": 200},
    {**THREE, "seed": 11, "frequency_penalty": 1.0, "presence_penalty": 0.5, "presence_context_size": 200},
    {**TEXT_ONLY, "temperature": 0.0, "logit_bias": {"65": 6.0, "66": -100.0}},
]


def mlx_vlms(model: Model, fields: dict[str, Any], count: int) -> list[int]:
    options = {name: value for name, value in fields.items() if name not in ("messages", "images")}
    bias = {int(token): value for token, value in options.pop("logit_bias", {}).items()}
    return model.tokens(fields, count, **{"temperature": 1.0, **options}, logit_bias=bias or None)


def test_sampled_and_bound_tokens_are_mlx_vlms(model: Model) -> None:
    """Each alone, then all in one batch that others join and leave."""
    expected = [mlx_vlms(model, fields, 40) for fields in SAMPLED]
    assert len({tuple(tokens) for tokens in expected}) == len(SAMPLED)
    # A request for log-probabilities takes another path through the batch.
    requests = [{**fields, "max_tokens": 40, "logprobs": 0} for fields in SAMPLED]
    for fields, tokens in zip(requests, expected, strict=True):
        got = answer(model.engine, **fields)
        assert [entry["bytes"] for entry in got["logprobs"]] == model.pieces(tokens)
    requests = [{**fields, "max_tokens": 40, "stream": number % 3 == 0} for number, fields in enumerate(SAMPLED)]
    said = [got["text"] for got in in_company(model.engine, requests)]
    assert said == [spoken(model.engine, tokens) for tokens in expected]
