"""What the outputs of one request say, token by token."""

from pathlib import Path

import pytest

from broker.wire.outputs import FINAL, PARTIAL
from broker.wire.work import Generate
from tests.worker.engine_runs import load


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_output_names_what_is_ignored(tiny_model: Path, stream: bool) -> None:
    generation = load(tiny_model).generation
    request = Generate(prompt="x", stream=stream)
    ignored = ["tools[0].uniqueItems", "json_schema.not", "tools[0].uniqueItems"]
    sequence = generation.sequence(b"id", request, None, None, prompt_tokens=1, cached_tokens=0, ignored=ignored)
    tokens = [(65, None), (66, None), (67, "length")]
    got = [output for token, reason in tokens if (output := sequence.advance(token, None, reason)) is not None]
    assert [output.kind for output in got] == ([PARTIAL, PARTIAL, FINAL] if stream else [FINAL])
    assert got[0].body["ignored"] == ["tools[0].uniqueItems", "json_schema.not"]
    assert all("ignored" not in output.body for output in got[1:])
