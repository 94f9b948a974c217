"""What the outputs of one request say, token by token."""

from pathlib import Path

import mlx.core as mx
import pytest

from broker.wire.outputs import ERROR, FINAL, PARTIAL
from broker.wire.work import Generate
from tests.device_errors import DEVICE_ERRORS
from tests.worker.engine_runs import load
from worker.generation import sequence as sequences


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


def test_a_sequence_that_comes_back_asks_its_new_constraint(tiny_model: Path) -> None:
    engine = load(tiny_model)
    request = Generate(prompt="x", grammar='start: "ab"')
    answer, constraint = engine.generation.answer(request, [1])
    _, again = engine.generation.answer(request, [1])
    assert again is not None
    sequence = engine.generation.sequence(b"id", request, answer, constraint, prompt_tokens=1, cached_tokens=0)
    sequence.follow(again)
    again.catch_up([*engine.loaded.tokenizer.encode("zz"), 0])  # what its grammar cannot follow
    output = sequence.advance(65, None, None)
    assert output is not None
    assert (output.kind, output.body["param"]) == (ERROR, "grammar")


def test_an_error_of_the_gpu_is_not_the_fault_of_the_request_that_meets_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = load(tiny_model).generation
    sequence = generation.sequence(
        b"id", Generate(prompt="x", logprobs=1), None, None, prompt_tokens=1, cached_tokens=0
    )

    def fails(*_: object) -> None:  # as reading the first value from the device does
        raise RuntimeError(DEVICE_ERRORS["timeout"])

    monkeypatch.setattr(sequences, "token_logprobs", fails)
    with pytest.raises(RuntimeError, match="ErrorTimeout"):
        sequence.advance(65, mx.zeros(4), None)
