from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.ollama.stay import FOR_GOOD, KeepAlive

READER: TypeAdapter[float | None] = TypeAdapter(KeepAlive)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (300, 300.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1h2m3.5s", 3723.5),
        ("250us", 250e-6),
        ("250\u00b5s", 250e-6),
        ("250\u03bcs", 250e-6),
        ("7ns", 7e-9),
        ("+5m", 300.0),
        (" 5m ", 300.0),
        ("300", 300.0),
        (-1, FOR_GOOD),
        (-0.5, FOR_GOOD),
        ("-1", FOR_GOOD),
        ("-1m", FOR_GOOD),
        (10**300, 10 * 365 * 86400.0),
        ("99999999h", 10 * 365 * 86400.0),
    ],
    ids=repr,
)
def test_what_ollamas_clients_write(said: object, seconds: float | None) -> None:
    assert READER.validate_python(said) == pytest.approx(seconds)


@pytest.mark.parametrize("said", ["", "m5", "5 m", "5d", "5m-1s", "s", ".", "1e3s", "5M", "9" * 200 + "s"])
def test_what_is_no_duration(said: str) -> None:
    refused(said)


@pytest.mark.parametrize("said", [True, False, [], {}, float("nan")])
def test_what_is_neither_a_number_nor_a_text(said: Any) -> None:
    refused(said)


def refused(said: object) -> None:
    with pytest.raises(ValidationError, match='a number of seconds or a duration such as "5m"'):
        READER.validate_python(said)
