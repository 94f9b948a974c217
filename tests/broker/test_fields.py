"""Checks of settings alone: what each takes from the environment and from TOML, and what it says about the rest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from broker.fields import (
    Check,
    MistakesError,
    choice,
    folder,
    names,
    number,
    optional,
    read,
    switch,
    table,
    tables,
    text,
    whole,
)


def _each(check: Check, end: Any, *values: Any) -> list[tuple[Check, Any, Any]]:
    return [(check, value, end) for value in values]


def _ids(cases: list[tuple[Check, Any, Any]]) -> list[str]:
    return [f"{number}: {value!r:.20}" for number, (_check, value, _end) in enumerate(cases)]


GOOD: list[tuple[Check, Any, Any]] = [
    *_each(whole(0), 7, 7, "7", " 7 ", 7.0),
    (whole(0, 4), 4, 4),
    *_each(whole(0), 2**53 - 1, 2**53 - 1, str(2**53 - 1)),
    *_each(number(least=1), 1.0, 1, "1", 1.0),
    (number(), "-1e3", -1000.0),
    *_each(switch, True, True, "true", "YES", "on", "1", 1),
    *_each(switch, False, False, "False", "no", "OFF", "0", 0),
    (choice("text", "json"), "JSON", "json"),
    (folder, "/a/b", Path("/a/b")),
    (folder, "b", Path.cwd() / "b"),
    (names, " a ,b,", ["a", "b"]),
    (names, ["a,b"], ["a,b"]),
    (optional(whole(0)), None, None),
    (optional(whole(0)), "1", 1),
    (text, "a", "a"),
    (table, {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("check", "value", "expected"), GOOD, ids=_ids(GOOD))
def test_a_value_becomes_what_the_setting_is(check: Check, value: Any, expected: Any) -> None:
    found = check(value)
    assert (found, type(found)) == (expected, type(expected))


BAD: list[tuple[Check, Any, Any]] = [
    *_each(whole(0), "must be a whole number, not ", True, "1.5", 1.5, "many", [], None, "", "\u0663", "\uff17"),
    *_each(whole(0), "must be at most 9007199254740991 above or below 0", 2**53, str(2**53), 1e300),
    (whole(-(10**20)), -(2**53), "must be at most 9007199254740991 above or below 0"),
    (whole(1), 0, "must be at least 1, not 0"),
    (whole(0, 4), "5", "must be from 0 to 4, not 5"),
    *_each(number(), "must be a finite number, not ", True, "lots", "nan", "inf", [], 10**400, "\u0663"),
    (number(least=1), 0.5, "must be at least 1, not 0.5"),
    (number(above=0), "0", "must be greater than 0, not 0"),
    *_each(switch, "must be true or false, not ", "maybe", 2, 1.0, None),
    *_each(choice("text", "json"), "must be one of text, json, not ", "yaml", 1),
    (folder, 1, "must be a path, not 1"),
    (folder, "a\nb", "must be printable text"),
    *_each(names, "must be a list of names", 1, [1]),
    (text, 1, "must be text, not 1"),
    (table, [], "must be a table"),
]


@pytest.mark.parametrize(("check", "value", "said"), BAD, ids=_ids(BAD))
def test_what_it_says_about_another_value(check: Check, value: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the next line has the message
        check(value)
    assert str(error.value).startswith(said)


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, whole(1)] = 1


@dataclass(frozen=True)
class Outer:
    low: Annotated[int, whole(0)] = 0
    high: Annotated[int, whole(0)] = 9
    where: Annotated[Path, folder] = field(default_factory=lambda: Path("here"))
    inner: Annotated[dict[str, Inner], tables(Inner)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be above high")


def mistakes(**values: Any) -> list[tuple[tuple[str, ...], str]]:
    with pytest.raises(MistakesError) as error:
        read(Outer, values)
    return [(one["loc"], one["msg"]) for one in error.value.errors]


def test_what_is_not_given_has_its_default_in_the_form_of_a_setting() -> None:
    assert read(Outer, {"low": "3"}) == Outer(3, 9, Path.cwd() / "here", {})
    assert read(Outer, {"inner": {"a": {}, "b": {"size": 2}}}).inner == {"a": Inner(), "b": Inner(2)}


def test_every_mistake_is_told_with_its_place() -> None:
    assert mistakes(low="x", inner={"a": {"size": 0, "shape": 1}, "b": 1}, lwo=1) == [
        (("low",), "must be a whole number, not 'x'"),
        (("inner", "a", "size"), "must be at least 1, not 0"),
        (("inner", "a", "shape"), "unknown"),
        (("inner", "b"), "must be a table"),
        (("lwo",), "unknown"),
    ]


def test_values_are_compared_once_each_is_good() -> None:
    assert mistakes(low=5, high=4) == [((), "low must not be above high")]
    assert mistakes(low=5, high="x") == [(("high",), "must be a whole number, not 'x'")]
