"""What the first output of a stream and the end of an answer say beside the text."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import load, run
from tests.worker.generation.scripted import THINK_TEMPLATE, USER, scripted
from tests.worker.generation.test_harmony import harmony
from worker.text.engine import TextEngine

ASK: dict[str, Any] = {"messages": [USER], "temperature": 0.0}


def end(engine: TextEngine, **fields: Any) -> dict[str, Any]:
    """The FINAL, the same streamed and in one."""
    whole, streamed = (run(engine, [{**ASK, "stream": stream, **fields}])[0][-1].body for stream in (False, True))
    about = {name: value for name, value in whole.items() if name.endswith(("tokens", "reason", "string", "full"))}
    del about["cached_tokens"]
    assert about.items() <= streamed.items()
    return about


# ---- the prompt, first --------------------------------------------------------------------------------------------


def test_the_first_output_of_a_stream_says_the_size_of_the_prompt(tiny_model: Path) -> None:
    engine = load(tiny_model)
    fields: dict[str, Any] = {"prompt": "p" * 100, "temperature": 0.0, "max_tokens": 20, "stream": True}
    for cached in (0, 99):
        [outputs] = run(engine, [fields])
        assert outputs[0].body["prompt"] == {"tokens": 100, "cached": cached}
        assert outputs[-1].body["cached_tokens"] == cached
        assert len(outputs) > 2
        assert not any("prompt" in output.body for output in outputs[1:])
    [[only]] = run(engine, [{**fields, "stream": False}])
    assert "prompt" not in only.body


def test_a_stream_of_one_output_says_it_there(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "Yes")
    [[only]] = run(engine, [{**ASK, "stream": True, "max_tokens": 1}])
    assert only.body["prompt"] == {"tokens": only.body["prompt_tokens"], "cached": 0}


# ---- why it ended -------------------------------------------------------------------------------------------------


def test_the_end_names_the_stop_string(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "one", " two", " three", " four")
    assert end(engine, stop=["nothing", "hr", "three"])["stop_string"] == "hr"
    assert end(engine, stop=[" f", "four"])["stop_string"] == " f"
    assert "stop_string" not in end(engine, stop=["nothing"])
    assert "stop_string" not in end(engine, stop=[" three"], max_tokens=2)


def test_the_end_says_whether_the_context_is_full(tmp_path: Path) -> None:
    engine = load(make_tiny_model(tmp_path / "short", context_length=64))
    fields: dict[str, Any] = {"messages": None, "prompt": "x" * 50}
    for asked, full in ((None, True), (1000, True), (15, True), (14, False), (13, False)):
        got = end(engine, **fields, max_tokens=asked)
        assert (got["finish_reason"], got.get("context_full", False)) == ("length", full)


def test_a_model_without_a_context_fills_none(tmp_path: Path) -> None:
    engine = load(make_tiny_model(tmp_path / "endless", context_length=64))
    engine.generation.context = 0
    assert "context_full" not in end(engine, max_tokens=14)


# ---- reasoning ----------------------------------------------------------------------------------------------------


def test_tokens_between_the_tags_are_reasoning(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", "</think>", "It", " is")
    assert end(engine) == {
        "finish_reason": "stop",
        "prompt_tokens": end(engine)["prompt_tokens"],
        "completion_tokens": 7,
        "reasoning_tokens": 2,
    }
    assert "reasoning_tokens" not in end(engine, max_tokens=1)
    assert [end(engine, max_tokens=most)["reasoning_tokens"] for most in (2, 3, 4, 5)] == [1, 2, 2, 2]


def test_reasoning_that_the_prompt_has_opened_counts_from_the_first_token(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "I", " wonder", "</think>", "Sunny", chat_template=THINK_TEMPLATE, after="<think>")
    assert [end(engine, max_tokens=most)["reasoning_tokens"] for most in (1, 2, 3, 4)] == [1, 2, 2, 2]


def test_reasoning_that_nothing_closes_counts_to_its_end(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "I", " wonder", " on", chat_template=THINK_TEMPLATE, after="<think>")
    assert end(engine)["reasoning_tokens"] == 3  # the end of the text is no part of it


def test_a_token_that_ends_reasoning_and_goes_on_is_none(tmp_path: Path) -> None:
    """Tags of several tokens, one of which has text of both kinds."""
    pieces = ("I", " see</th", "ink>So", " it is")
    engine = scripted(tmp_path, *pieces, chat_template=THINK_TEMPLATE, after="<think>")
    [[output]] = run(engine, [ASK])
    assert (output.body["reasoning"], output.body["text"]) == ("I see", "So it is")
    assert output.body["reasoning_tokens"] == 2


def test_reasoning_is_counted_before_an_answer_that_follows_a_schema(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", "</think>", '"a"')
    assert end(engine, json_schema={"enum": ["a"]})["reasoning_tokens"] == 2


def test_the_analysis_of_harmony_is_reasoning(tmp_path: Path) -> None:
    pieces = ("<|channel|>", "analysis", "<|message|>", "I", " wonder", "<|end|>", "<|start|>", "assistant")
    assert end(harmony(tmp_path / "a", *pieces))["reasoning_tokens"] == 2
    assert "reasoning_tokens" not in end(harmony(tmp_path / "b", "<|channel|>", "final", "<|message|>", "Sunny"))


def test_a_text_completion_has_no_reasoning(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "<think>", "I", "</think>", "It", after="x")
    assert "reasoning_tokens" not in end(engine, messages=None, prompt="x")


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_cut_off_by_a_stop_string_counts(tmp_path: Path, stream: bool) -> None:
    engine = scripted(tmp_path, "<think>", "I", " wonder", " why", "</think>")
    body = run(engine, [{**ASK, "stop": ["der"], "stream": stream}])[0][-1].body
    assert (body["stop_string"], body["reasoning_tokens"]) == ("der", 2)
