"""Prompts with images are counted as they would be read, and nothing else happens."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from broker.wire.packing import pack
from broker.wire.work import Generate
from tests.tiny_vision import picture
from tests.worker.engine_runs import counted, run
from tests.worker.vision.failing import failure
from tests.worker.vision.test_mistakes import BROKEN
from tests.worker.vision.vision_runs import IMAGE, ONE, PROMPTS, TWO_TURNS, load, text, user
from worker.vision.engine import VisionEngine

OTHERS: dict[str, dict[str, Any]] = {
    "no chat": {"prompt": "hi é"},
    "larger": {**ONE, "min_pixels": 32 * 32},
    "smaller": {**ONE, "images": [picture(1, width=48, height=48)], "max_pixels": 16 * 16},
    "echoed": {"prompt": "hi é", "echo": True, "logprobs": 0},
}


@pytest.mark.parametrize("fields", [*PROMPTS.values(), *OTHERS.values()], ids=[*PROMPTS, *OTHERS])
def test_a_count_is_the_number_that_the_same_request_reports(engine: VisionEngine, fields: dict[str, Any]) -> None:
    before = engine.stats()
    tokens = counted(engine.count, **fields)
    assert (engine.stats(), engine.has_work) == (before, False)
    [outputs] = run(engine, [{**fields, "max_tokens": 2}])
    assert outputs[-1].body["prompt_tokens"] == tokens > 0


def test_large_images_count_as_they_are_read(engine: VisionEngine) -> None:
    sizes = [{**ONE, "images": [picture(1, width=width, height=16)]} for width in (16, 64)]
    small, large = (counted(engine.count, **fields) for fields in sizes)
    assert small < large


def test_images_are_decoded_one_by_one(engine: VisionEngine) -> None:
    pieces = list(engine.count(pack(Generate(**TWO_TURNS))))
    assert pieces[:-1] == [None, None]


def test_a_prompt_longer_than_the_context_is_counted(engine: VisionEngine, folder: Path) -> None:
    short = load(folder, context_length=16)
    fields: dict[str, Any] = {"messages": [user(text("x" * 500), IMAGE)], "images": ONE["images"]}
    assert counted(short.count, **fields) == counted(engine.count, **fields) > 500
    assert failure(short, **fields)["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields",
    [
        *({**ONE, "images": [data]} for data, _ in BROKEN.values()),
        {**ONE, "images": []},
        {"images": ONE["images"], "prompt": "x"},
        {**ONE, "max_tokens": 0},
        {**ONE, "temperature": -1.0},
        {**ONE, "grammar": "start: nothing"},
    ],
)
def test_a_count_is_refused_as_the_request_would_be(engine: VisionEngine, fields: dict[str, Any]) -> None:
    with pytest.raises(FailureError) as counts:
        counted(engine.count, **fields)
    body = failure(engine, **fields)
    found = counts.value.failure
    assert (found.code, found.message, found.param) == (body["code"], body["message"], body["param"])
