"""min_pixels and max_pixels of a request: the sizes at which a model sees its images."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from tests.tiny_vision import LARGEST_PIXELS, picture
from tests.worker.engine_runs import add, joined, run
from tests.worker.vision.vision_runs import IMAGE, ONE, load, text, user
from worker.vision.engine import VisionEngine

pytestmark = pytest.mark.exact

SMALL: dict[str, Any] = {"messages": [user(IMAGE, text("?"))], "images": [picture(1)], "max_tokens": 4, "seed": 1}
LARGE: dict[str, Any] = {**SMALL, "images": [picture(1, width=64, height=64)]}


def prompt_tokens(engine: VisionEngine, **fields: Any) -> int:
    tokens: int = joined(run(engine, [fields])[0])["prompt_tokens"]
    return tokens


def test_an_image_is_seen_larger_or_smaller(engine: VisionEngine) -> None:
    small, large = prompt_tokens(engine, **SMALL), prompt_tokens(engine, **LARGE)
    assert large - small == 64 - 4  # 8 by 8 pixels are a token
    assert prompt_tokens(engine, **LARGE, max_pixels=16 * 16) == small
    assert prompt_tokens(engine, **SMALL, min_pixels=32 * 32) == small - 4 + 16
    assert prompt_tokens(engine, **LARGE, min_pixels=8 * 8, max_pixels=32 * 32) == small - 4 + 16
    assert prompt_tokens(engine, **LARGE) == large  # nothing of it stays


def test_others_see_theirs_as_they_are(engine: VisionEngine) -> None:
    alone = [joined(run(engine, [fields])[0]) for fields in (LARGE, {**LARGE, "max_pixels": 256})]
    together = run(engine, [LARGE, {**LARGE, "max_pixels": 256}])
    assert [joined(outputs)["text"] for outputs in together] == [one["text"] for one in alone]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_pixels": 0}, "min_pixels"),
        ({"max_pixels": -1}, "max_pixels"),
        ({"min_pixels": 300, "max_pixels": 200}, "min_pixels"),
        ({"min_pixels": 2048 * 2048 + 1}, "min_pixels"),
        ({"min_pixels": 2048 * 2048, "images": [picture(1)] * 22, "messages": [user(*[IMAGE] * 22)]}, "min_pixels"),
    ],
)
def test_sizes_have_bounds(engine: VisionEngine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(FailureError) as caught:
        add(engine, 1, **{**SMALL, **fields})
    assert caught.value.failure.param == param


def test_a_long_prompt_is_refused_before_an_image_is_read(folder: Path) -> None:
    engine = load(folder, context_length=40)
    with pytest.raises(FailureError) as caught:
        add(engine, 1, **SMALL, min_pixels=LARGEST_PIXELS)
    assert caught.value.failure.code == "context_length_exceeded"


def test_a_processor_with_a_size_of_its_own_ignores_them(engine: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ignored" not in joined(run(engine, [{**ONE, "max_tokens": 2, "max_pixels": 256}])[0])
    monkeypatch.setattr(type(engine.model), "takes_pixels", property(lambda _self: False))
    got = joined(run(engine, [{**ONE, "max_tokens": 2, "max_pixels": 256, "min_pixels": 8}])[0])
    assert got["ignored"] == ["min_pixels", "max_pixels"]
    words = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "max_pixels": 256}
    assert "ignored" not in joined(run(engine, [words])[0])
