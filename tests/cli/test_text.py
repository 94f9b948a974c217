import json

import pytest

from cli.text import duration, fitting, json_text, plural, rate, shown, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (2**20, "1.00 MiB"),
        (670240768, "639 MiB"),
        (18 * 2**30, "18.0 GiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_a_size_has_three_digits(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.4, "0s"), (41, "41s"), (60, "1m"), (61, "1m 1s"), (7500, "2h 5m"), (90000, "1d 1h"), (86401, "1d")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rates_and_plurals() -> None:
    assert [rate(value) for value in (None, 0.0, 3.14159, 99.96, 512.7)] == ["-", "0", "3.1", "100.0", "513"]
    assert [plural(count, "request") for count in (0, 1, 2)] == ["0 requests", "1 request", "2 requests"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain [red] äöü 模型", "plain [red] äöü 模型"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, escaped: str) -> None:
    assert shown(text) == escaped


def test_what_a_caller_keeps_stays() -> None:
    assert shown("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_columns_of_a_high_rank_are_left_out_first() -> None:
    assert fitting([10, 5, 5, 5], [0, 1, 3, 2], 31) == [0, 1, 2, 3]
    assert fitting([10, 5, 5, 5], [0, 1, 3, 2], 30) == [0, 1, 3]
    assert fitting([10, 5, 5, 5], [0, 1, 3, 2], 17) == [0, 1]
    assert fitting([10, 5, 5, 5], [0, 1, 3, 2], 4) == [0]


def test_json_is_harmless_and_means_the_same() -> None:
    value = {"ä\x9b31m": ["a\u202eb\x7f\n", "\ud800", "\x1b[31m"]}
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert shown(text, keep="\n") == text
        assert "ä" in text
    assert json_text(value, ascii_only=True).isascii()
