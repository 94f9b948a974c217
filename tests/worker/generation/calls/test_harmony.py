"""Harmony, whole and in pieces of every size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.generation.answer import Answer, Parts
from worker.generation.calls.harmony import HarmonySplit, read_message
from worker.generation.tools import read_calls

Read = tuple[str, str, list[tuple[str, str]]]


def read(pieces: list[str]) -> Read:
    """(reasoning, text, calls)"""
    answer, parts = Answer(HarmonySplit(), lambda text: read_calls(lambda: read_message(text, [])), "", ""), Parts()
    for piece in pieces:
        answer.push(piece, parts)
    answer.finish(parts)
    calls = [(call["name"], call["arguments"]) for call in parts.tool_calls]
    return "".join(parts.reasoning), "".join(parts.text), calls


THINK = "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (THINK + "<|channel|>final<|message|>Hello <b>", ("I think.", "Hello <b>", [])),
        (THINK + "<|channel|>final <|constrain|>json<|message|>{}", ("I think.", "{}", [])),
        (THINK + CALL + "<|call|>", ("I think.", "", [("weather", '{"city": "Rome"}')])),
        (
            THINK + ' to=functions.weather<|channel|>commentary json<|message|>{"n": 123456789012345678}',
            ("I think.", "", [("weather", '{"n": 123456789012345678}')]),
        ),
        (
            f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALL}<|call|><|start|>assistant{CALL}",
            ("", "I look.", [("weather", '{"city": "Rome"}')] * 2),
        ),
        ("<|channel|>commentary to=functions.now<|message|>", ("", "", [("now", "{}")])),
        # Two messages are two paragraphs.
        (
            THINK + "<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two.",
            ("I think.", "One.\n\nTwo.", []),
        ),
        # A message that is not closed before the next channel.
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.", ("Hm.", "Yes.", [])),
        # Cut short.
        ("<|channel|>analysis<|message|>I thi", ("I thi", "", [])),
        (CALL[:-4], ("", CALL[:-4], [])),
        (THINK + "<|channel|>fin", ("I think.", "", [])),
        (THINK, ("I think.", "", [])),
        ("<|chan", ("", "", [])),
        ("", ("", "", [])),
        # What nobody knows is not swallowed.
        ("<|channel|>unknown<|message|>what", ("", "what", [])),
        ("Just text, without any <|end|>", ("", "Just text, without any ", [])),
        ("<|channel|>final and then no message at all", ("", "<|channel|>final and then no message at all", [])),
        (CALL.replace('"}', ""), ("", CALL.replace('"}', ""), [])),
        # The model quotes a mark that opens nothing.
        ("<|channel|>final<|message|>a <|message|> b to=x", ("", "a <|message|> b to=x", [])),
    ],
)
def test_an_answer_whole_and_in_characters(text: str, wanted: Read) -> None:
    assert read([text]) == wanted
    assert read(list(text)) == wanted


WORDS = (
    "<|start|>",
    "assistant",
    "<|channel|>",
    "analysis",
    "final",
    "<|message|>",
    "<|end|>",
    " to=f",
    "{}",
    "a ",
    "<|",
)


@given(words=st.lists(st.sampled_from(WORDS), max_size=20), data=st.data())
def test_pieces_of_any_size_make_the_same_answer(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    whole = read([text])
    assert read([text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == whole
    assert read(list(text)) == whole
