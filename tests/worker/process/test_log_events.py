"""What a worker logs is read by its broker as it was meant."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from broker.processes.lines import LogEvent, Printed
from worker.process.intake import taking_in
from worker.process.log_events import EventFormatter, begins, concerning, ends

R1, R2 = bytes(16), bytes(15) + b"2"


@pytest.fixture(autouse=True)
def _requests() -> Iterator[None]:
    begins(R1, "id 1")
    begins(R2, "")
    yield
    ends(R1)
    ends(R2)


def read(line: str) -> LogEvent:
    printed = Printed()
    printed.feed(line.encode() + b"\n")
    [event] = printed.take(0.0)
    return event


def event_of(message: str, *arguments: object, hides: bool = True, **attributes: Any) -> LogEvent:
    record = logging.makeLogRecord({"levelno": 30, "levelname": "WARNING", "msg": message, "args": arguments})
    record.__dict__.update(attributes)
    return read(EventFormatter(hides=hides).format(record))


def error(kind: type[Exception], text: str) -> dict[str, Any]:
    try:
        raise kind(text)
    except kind as found:
        return {"exc_info": (kind, found, found.__traceback__)}


def test_an_event_arrives_as_it_was_logged() -> None:
    assert event_of("%s\x1b is Grün", "m") == LogEvent(r"m\x1b is Grün", 30)


def test_what_happens_to_a_request_has_its_id() -> None:
    with taking_in(R1):
        assert event_of("x").trace == "id 1"
        with concerning(R2):
            assert event_of("x").trace == ""
        with concerning(None):
            assert event_of("x").trace == "id 1"
    assert event_of("x").trace == ""
    assert event_of("x", about=R1).trace == "id 1"


def test_a_traceback_is_in_the_event_and_quotes_nothing() -> None:
    event = event_of("it fails", **error(ValueError, "a prompt"))
    assert event.lines[0] == "Traceback (most recent call last):"
    assert event.lines[-1].startswith("ValueError: (a message that may quote a request")
    assert event_of("it fails", hides=False, **error(ValueError, "a prompt")).lines[-1] == "ValueError: a prompt"
    assert event_of("it fails", shows_errors=True, **error(ValueError, "weights")).lines[-1] == "ValueError: weights"


def test_a_huge_event_is_cut_and_still_one() -> None:
    event = event_of("x" * 1_000_000, **error(OSError, "\x1b" * 1_000_000 + "\n" * 1000))
    assert event.level == 30
    assert len(event.text) <= 2000
    assert len(event.lines) <= 121
