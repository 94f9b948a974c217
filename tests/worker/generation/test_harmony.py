"""Answers of gpt-oss, which come on channels."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.work import Generate
from tests.worker.generation.scripted import USER, WEATHER, parts, scripted
from worker.generation.answer import Parts
from worker.generation.constraints.constraint import Constraint
from worker.text.engine import TextEngine

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")


def harmony(folder: Path, *pieces: str) -> TextEngine:
    return scripted(folder, *pieces, tags=HARMONY, tool_parser=None)


def test_harmony_is_read(tmp_path: Path) -> None:
    pieces = ("<|channel|>", "analysis", "<|message|>", "I wonder", "<|end|>", "<|start|>", "assistant<|chan", "nel|>")
    engine = harmony(tmp_path, *pieces, "final<|message|", ">It is ", "<b>", " to=you")
    got = parts(engine)
    assert (got["reasoning"], got["text"], got["finish_reason"]) == ("I wonder", "It is <b> to=you", "stop")


def test_harmony_calls_a_tool(tmp_path: Path) -> None:
    head = ("<|channel|>", "commentary to=functions.weather ", "<|constrain|>", "json", "<|message|>")
    got = parts(harmony(tmp_path, *head, '{"city": ', '"Paris"}', "<|call|>"), tools=[WEATHER])
    assert (got["text"], got["tool_calls"]) == ("", [("weather", {"city": "Paris"})])
    assert got["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("is_call", [False, True])
def test_harmony_under_a_grammar_reasons_and_answers_on_the_final_channel(tmp_path: Path, is_call: bool) -> None:
    engine = harmony(tmp_path, "<|channel|>", "<|message|>", "I wonder", "<|end|>")
    asked: dict[str, Any] = {"json_schema": {"enum": ["a"]}}
    if is_call:
        asked = {"tools": [WEATHER], "required_tools": ["weather"], "one_call": True}
    got = parts(engine, logprobs=0, **asked)
    assert got["reasoning"] == "I wonder"
    assert got["text"] == ("" if is_call else '"a"')
    assert got["tool_calls"] == ([("weather", {"city": "Paris"})] if is_call else [])
    written = "".join(entry["token"] for entry in got["logprobs"])
    begin = "<|channel|>analysis<|message|>I wonder<|end|><|start|>assistant<|channel|>final<|message|>"
    assert written.startswith(begin + ('{"name"' if is_call else '"a"'))


def test_harmony_calls_or_follows_a_schema(tmp_path: Path) -> None:
    engine = harmony(tmp_path, "I wonder")
    request = Generate(messages=[USER], tools=[WEATHER], json_schema={"enum": ["a"]})
    thought = "<|channel|>analysis<|message|>I wonder<|end|><|start|>assistant<|channel|>"
    answers = {
        thought + 'final<|message|>"a"': ('"a"', []),
        thought + "commentary to=functions.weather <|constrain|>json<|message|>{}": ("", [("weather", "{}")]),
        thought + "final<|message|>b": None,
        "<|channel|>final<|message|>": None,
    }
    for text, wanted in answers.items():
        prompt = engine.loaded.tokenizer.encode("x")
        form, constraint = engine.generation.answer(request, prompt)
        assert form is not None
        assert constraint is not None
        allowed = follows(constraint, prompt, engine.loaded.tokenizer.encode(text, add_special_tokens=False), engine)
        assert allowed == (wanted is not None), text
        if wanted is not None:
            got = Parts()
            form.push(text, got)
            form.finish(got)
            calls = [(call["name"], call["arguments"]) for call in got.tool_calls]
            assert ("".join(got.reasoning), "".join(got.text), calls) == ("I wonder", *wanted)


def follows(constraint: Constraint, prompt: list[int], answer: list[int], engine: TextEngine) -> bool:
    """Whether the constraint allows this answer."""
    tokens = list(prompt)
    for token in answer:
        allowed = constraint(mx.array(tokens), mx.zeros((1, engine.loaded.vocabulary)))
        if allowed[0, token].item() != 0.0:
            return False
        tokens.append(token)
    return True
