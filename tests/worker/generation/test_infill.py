"""Prompts with a gap, by the vocabularies of families."""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import FailureError
from broker.wire.work import Generate
from tests.scripted_model import make_scripted_model
from tests.worker.engine_runs import add, answer, load
from worker.generation.infill import infill_ends
from worker.generation.prompt import prompt_characters, text_tokens


class Letters:
    """A tokenizer of letters and marks. start: whether it puts `<s>` before a text."""

    def __init__(self, *marks: str, start: bool = False) -> None:
        self.marks = ["<s>", *marks]
        self._start = start

    def get_vocab(self) -> dict[str, int]:
        return {mark: 1000 + number for number, mark in enumerate(self.marks)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1000] * (self._start and add_special_tokens) + [ord(letter) for letter in text]

    def text(self, tokens: list[int]) -> str:
        return "".join(self.marks[token - 1000] if token >= 1000 else chr(token) for token in tokens)


@pytest.mark.parametrize(
    ("marks", "wanted"),
    [
        (("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"), "<|fim_prefix|>ab<|fim_suffix|>yz<|fim_middle|>"),
        (("<fim_prefix>", "<fim_middle>", "<fim_suffix>"), "<fim_prefix>ab<fim_suffix>yz<fim_middle>"),
        (("<fim-prefix>", "<fim-middle>", "<fim-suffix>"), "<fim-prefix>ab<fim-suffix>yz<fim-middle>"),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), "<｜fim▁begin｜>ab<｜fim▁hole｜>yz<｜fim▁end｜>"),
        (("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"), "▁<PRE>ab▁<SUF>yz▁<MID>"),
        (("[SUFFIX]", "[PREFIX]"), "[SUFFIX]yz[PREFIX]ab"),
        (
            ("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
            "<|code_prefix|>ab<|code_suffix|>yz<|code_middle|>",
        ),
        (("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"), "<[fim-suffix]>yz<[fim-prefix]>ab<[fim-middle]>"),
    ],
)
def test_the_vocabulary_decides_how_a_gap_is_written(marks: tuple[str, ...], wanted: str) -> None:
    request = Generate(prompt="ab", suffix="yz")
    for start in (False, True):
        tokenizer: Any = Letters(*marks, start=start)
        assert tokenizer.text(text_tokens(request, tokenizer, 2000)) == "<s>" * start + wanted
    assert prompt_characters(request) == 4


def test_the_marks_that_end_the_middle() -> None:
    marks = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|file_sep|>")
    assert infill_ends(Letters(*marks)) == ["<|fim_pad|>", "<|file_sep|>"]
    assert infill_ends(Letters("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")) == ["<EOT>"]


@pytest.mark.parametrize("prompt", ["ab", [1, 2]])
def test_a_suffix_that_cannot_be_served_is_named(prompt: Any) -> None:
    tokenizer: Any = Letters("<|fim_prefix|>", "<|fim_middle|>")
    with pytest.raises(FailureError, match="suffix: ") as caught:
        text_tokens(Generate(prompt=prompt, suffix="yz"), tokenizer, 2000)
    assert caught.value.failure.param == "suffix"
    assert text_tokens(Generate(prompt="ab", suffix=""), tokenizer, 2000) == [97, 98]


def test_a_model_fills_the_gap_and_ends_at_its_mark(tmp_path: Path) -> None:
    marks = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
    pieces = ("return", " x", "<|file_sep|>", "more")
    engine = load(make_scripted_model(tmp_path, pieces, tags=marks, after="<|fim_middle|>"))
    fields = {"prompt": "def f(x):\n    ", "suffix": "\n\nf(1)", "temperature": 0.0, "max_tokens": 20}
    for stream in (False, True):
        got = answer(engine, **fields, stream=stream)
        assert (got["text"], got["finish_reason"]) == ("return x", "stop")
    assert answer(engine, **fields, echo=True)["text"] == "def f(x):\n    return x"
    with pytest.raises(FailureError) as caught:
        add(engine, 1, **fields, echo=True, logprobs=0)
    assert caught.value.failure.param == "echo"
