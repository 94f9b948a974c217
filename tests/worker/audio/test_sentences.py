"""Texts, cut into what is spoken in one go."""

import random

import pytest

from worker.audio.sentences import pieces_of

MOST = 60


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (" \n\t ", []),
        ("Hello.", ["Hello."]),
        (
            "The first sentence is here. The second one follows.",
            ["The first sentence is here.", "The second one follows."],
        ),
        ("Mr. Smith has 3.14 pounds to spend. He does.", ["Mr. Smith has 3.14 pounds to spend.", "He does."]),
        ("Hi. I am here to help you! Really?", ["Hi. I am here to help you!", "Really?"]),
        ('He said "what a lovely day it is." Then he left.', ['He said "what a lovely day it is."', "Then he left."]),
        (
            "A heading without a full stop\nand a line below it",
            ["A heading without a full stop", "and a line below it"],
        ),
        (
            "one two three four five six, seven eight nine ten eleven twelve thirteen fourteen",
            ["one two three four five six,", "seven eight nine ten eleven twelve thirteen fourteen"],
        ),
        ("word " * 14, [" ".join(["word"] * 12), "word word"]),
        ("x" * 130, ["x" * 60, "x" * 60, "x" * 10]),
        ("\u4eca\u65e5\u306f\u3002" * 8, ["\u4eca\u65e5\u306f\u3002" * 5, "\u4eca\u65e5\u306f\u3002" * 3]),
        (
            "[S1] This is what the first one says. And this too, still the first. [S2] Here is the other one.",
            [
                "[S1] This is what the first one says.",
                "[S1] And this too, still the first.",
                "[S2] Here is the other one.",
            ],
        ),
    ],
)
def test_a_text_is_cut(text: str, pieces: list[str]) -> None:
    assert pieces_of(text, MOST) == pieces


def test_nothing_is_lost_and_no_piece_is_too_long() -> None:
    draw = random.Random(1)
    alphabet = "abc de,.!?;:\n\u3002\u3001)\"'\u2019"
    for _ in range(300):
        text = "".join(draw.choices(alphabet, k=draw.randrange(400)))
        pieces = pieces_of(text, MOST)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(0 < len(piece) <= MOST for piece in pieces)


@pytest.mark.parametrize("text", ["." * 100_000, "a" * 100_000, ". " * 50_000, " " * 100_000 + "a", "\n" * 100_000])
def test_a_long_text_of_one_kind_is_cut_at_once(text: str) -> None:
    assert len(pieces_of(text, 240)) <= 100_000 // 20
