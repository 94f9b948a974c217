"""What a model writes is read back: each real template renders calls, and its own rendering is the model's answer."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import llguidance.hf
import pytest

from tests.templates.corpus import ARCHIVE, templates, tokenizer_for
from worker.generation.answer import AnswerFormat, Parts
from worker.generation.calls.formats import HARMONY
from worker.generation.calls.harmony import ROLE_START
from worker.generation.calls.shapes import QuotedCalls, shape_of
from worker.generation.constraints.call_grammars import BoundTool, calls_grammar
from worker.generation.constraints.free_calls import FreeCalls
from worker.generation.constraints.native import grammar_matcher
from worker.generation.constraints.vocabulary import Vocabulary
from worker.generation.reasoning import NO_REASONING

pytestmark = [pytest.mark.slow, pytest.mark.needs_index(ARCHIVE)]

QUESTION = "kzquestion"
ARGUMENTS: dict[str, Any] = {
    "code": "    if x:\n        y = 1",
    "zip": "4",
    "word": "null",
    "number": 123456789012345678,
    "share": 0.25,
    "flag": True,
    "deep": {"list": [1, "x", {"a": False}]},
}
NULLABLE = {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]}


def tool(zip_schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    properties = {
        "code": {"type": "string"},
        "zip": zip_schema,
        "word": {"type": "string"},
        "number": {"type": "integer"},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "deep": {"type": "object"},
    }
    described = {key: {**schema, "description": "d"} for key, schema in properties.items()}
    parameters = {"type": "object", "properties": described, "required": ["code"], **more}
    return {"type": "function", "function": {"name": "run_it", "description": "runs it", "parameters": parameters}}


PLAIN = tool({"type": "string"})  # every template can write it
TOOL = tool(NULLABLE, **{"$defs": {"word": {"type": "string"}}})
# Where the model's turn ends, for forms without a mark behind the calls.
ENDS = ("<|eot_id|>", "</s>", "<|call|>", "<|eom|>", "<|message_sep|>", "<|end_of_text|>")

# Templates that write no calls, or not as their model would, and why.
UNWRITTEN = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "text after `Action:`, no marks",
    "HuggingFaceTB-SmolLM3-3B": "writes no calls",
    "LFM2-8B-A1B": "writes no calls",
    "LFM2.5-Instruct": "writes no calls",
    "Kimi-K2-Instruct": "needs a call that the sandbox of templates refuses",
    "Kimi-K2-Thinking": "needs a call that the sandbox of templates refuses",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "writes no calls",
    "fireworks-ai-llama-3-firefunction-v2": "reads a variable that its own server alone gives it",
    "google-gemma-2-2b-it": "writes no calls",
    "ibm-granite-granite-3.3-2B-Instruct": "writes no calls",
    "llama-cpp-deepseek-r1": "cannot write arguments that are an object",
    "llama-cpp-rwkv-world": "writes no calls",
    "meetkai-functionary-medium-v3.2": "a channel for each call, not read",
    "microsoft-Phi-3.5-mini-instruct": "writes no calls",
}


def call(number: int) -> dict[str, Any]:
    return {"id": f"call0000{number}", "type": "function", "function": {"name": "run_it", "arguments": ARGUMENTS}}


def written(tokenizer: Any) -> tuple[str, int]:
    """The text of a model's turn of two calls, or of one where the template takes no more, and their number."""
    question = {"role": "user", "content": QUESTION}
    for count in (2, 1):
        turn = {"role": "assistant", "content": "", "tool_calls": [call(n + 1) for n in range(count)]}
        try:
            text = tokenizer.apply_chat_template([question, turn], tools=[PLAIN], tokenize=False)
        except Exception:  # noqa: BLE001, S112 # a template is a program that may raise anything
            continue
        prompt = tokenizer.apply_chat_template([question], tools=[PLAIN], add_generation_prompt=True, tokenize=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, text, strict=False)))
        if same < len(prompt) and "<" in (tag := text[:same].rpartition(">")[2]):
            same -= len(tag) - tag.index("<")  # not inside a tag
        text = text[same:]
        if (found := text.count(str(ARGUMENTS["number"]))) == 0:
            continue
        last = text.rindex("false") if "false" in text else text.rindex("False")
        ends = [text.index(end, last) for end in ENDS if end in text[last:]]
        return text[: min(ends, default=len(text))], found
    pytest.fail("the template writes no calls")


# Templates that write Python's form of lists and objects, where a strict function has JSON.
PYTHON = {"ByteDance-Seed-OSS", "openbmb-MiniCPM5-1B"}
# Forms whose calls are not bound.
UNBOUND = {"apertus", "elements", "kimi_k3", "llama3", "pythonic"}


def test_a_free_model_may_write_what_its_template_writes(tmp_path: Path) -> None:
    known = templates()
    schema = {**PLAIN["function"]["parameters"], "additionalProperties": False}
    wrong, unbound = [], set()
    for name in sorted(known.keys() - UNWRITTEN.keys()):
        tokenizer = tokenizer_for(known[name], tmp_path / name)
        form = AnswerFormat(tokenizer).calls
        assert form is not None
        guide = llguidance.hf.from_tokenizer(tokenizer._tokenizer)
        vocabulary = Vocabulary(guide)
        shape = shape_of(form.name, vocabulary.is_token)
        if shape is None:
            unbound.add(form.name)
            continue
        text = (ROLE_START if form is HARMONY else "") + written(tokenizer)[0]
        for tool in (BoundTool("run_it", {"type": "object"}), BoundTool("run_it", schema, is_strict=True)):
            if tool.is_strict and isinstance(shape, QuotedCalls):
                continue
            matcher = grammar_matcher(guide, calls_grammar(shape, [tool], form.end, vocabulary.literal))
            calls = FreeCalls(matcher, form, vocabulary, [])
            for token in tokenizer.encode(text, add_special_tokens=False):
                calls.take(token)
            if matcher.is_error() and not (tool.is_strict and name in PYTHON):
                wrong.append((name, tool.is_strict))
    assert (wrong, unbound) == ([], UNBOUND & unbound)


def test_what_a_template_writes_is_read_back(tmp_path: Path) -> None:
    known = templates()
    assert len(known) == 70
    assert UNWRITTEN.keys() < known.keys()
    wrong = {}
    for name in sorted(known.keys() - UNWRITTEN.keys()):
        tokenizer = tokenizer_for(known[name], tmp_path / name)
        text, count = written(tokenizer)
        marked = AnswerFormat(tokenizer)
        for pieces in ([text], list(text)):
            calls = read(marked, pieces)
            if calls != [("run_it", ARGUMENTS)] * count:
                wrong[name] = (text, calls)
    assert not wrong


def read(marked: AnswerFormat, pieces: list[str]) -> list[tuple[str, Any]]:
    answer, parts = marked.answer(NO_REASONING, [TOOL]), Parts()
    assert answer is not None
    for piece in pieces:
        answer.push(piece, parts)
    answer.finish(parts)
    assert all(one["id"] for one in parts.tool_calls)
    return [(one["name"], json.loads(one["arguments"])) for one in parts.tool_calls]
