"""One event is one line: for people and as JSON, harmless, and without what clients and models say."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from broker.wire.log_errors import error_lines
from broker.wire.log_json import JsonFormatter
from broker.wire.log_text import MAX_TRACE, harmless, shown_trace, trace_of
from broker.wire.logs import TextFormatter

QUOTE = "the prompt of a client"


def logged(formatter: logging.Formatter, write: Callable[[logging.Logger], Any]) -> str:
    """What a handler with this formatter writes."""
    # pytest would keep the lines of a logger from getLogger, and its processes cannot send each other a lone surrogate
    log, stream = logging.Logger("test", logging.INFO), io.StringIO()  # noqa: LOG001
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    write(log)
    return stream.getvalue()


def text(write: Callable[[logging.Logger], Any], *, hides: bool = False) -> str:
    return logged(TextFormatter(None, hides=hides), write)


def obj(write: Callable[[logging.Logger], Any], *, hides: bool = False) -> dict[str, Any]:
    line = logged(JsonFormatter("gateway", hides=hides), write)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def fails(error: Exception) -> Callable[[logging.Logger], None]:
    def write(log: logging.Logger) -> None:
        try:
            raise error
        except Exception:
            log.exception("it fails")

    return write


# ---- lines --------------------------------------------------------------------------------------------------------


def test_a_line_for_people() -> None:
    assert text(lambda log: log.info("%s is ready", "m")) == "INFO m is ready\n"
    with_time = logged(TextFormatter("gateway", hides=False), lambda log: log.info("x"))
    date, time, rest = with_time.split(" ", 2)
    assert (len(date), len(time), rest) == (len("2026-11-29"), len("01:44:09.127"), "gateway INFO x\n")


def test_a_request_is_named_at_the_end_of_the_line() -> None:
    about = {"request_id": "req_1"}
    assert text(lambda log: log.info("x", extra=about)) == "INFO x request_id=req_1\n"
    assert text(lambda log: log.info("x", extra={"request_id": ""})) == "INFO x\n"
    assert shown_trace('a" INFO forged') == r'"a\" INFO forged"'


def test_an_object() -> None:
    extra = {"request_id": "req 1", "worker": "w1", "pid": 7, "status": 200, "other": QUOTE}
    found = obj(lambda log: log.warning("%s", "x", extra=extra))
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning", "process": "gateway", "logger": "test", "message": "x",
        "request_id": "req 1", "worker": "w1", "pid": 7, "status": 200,
    }  # fmt: skip


@pytest.mark.parametrize("raw", ["\x1b[31mred", "two\nlines", "a\rb", "\x9b2J", "a\u202eb", "\ud800", "\x00", "\u2028"])
def test_nothing_harms_a_terminal_or_makes_a_second_line(raw: str) -> None:
    for shown in (
        text(lambda log: log.info("%s", raw)),
        text(lambda log: log.info("x", extra={"lines": [raw]})),
        logged(JsonFormatter("broker", hides=False), lambda log: log.info("%s", raw, extra={"model": raw})),
    ):
        assert harmless(raw) in shown.replace("\\\\", "\\")
        assert all(line.isprintable() for line in shown.split("\n"))
    assert text(lambda log: log.info("%s", raw)).count("\n") == 1


def test_an_error_whose_message_has_escapes() -> None:
    shown = text(fails(OSError("\x1b[31m\nforged line")))
    assert "\x1b" not in shown
    assert shown.endswith("OSError: \\x1b[31m\nforged line\n")


def test_a_long_message_is_cut() -> None:
    line = text(lambda log: log.info("%s", "x" * 10_000_000))
    assert len(line) < 10_000
    assert line.endswith("… (10000000 characters)\n")


def test_arguments_that_do_not_fit_are_a_line_too() -> None:
    record = logging.makeLogRecord({"levelname": "INFO", "msg": "%d", "args": ("x",)})
    assert TextFormatter(None, hides=False).format(record).startswith("INFO '%d' with arguments")


def test_a_traceback_is_part_of_the_one_object() -> None:
    found = obj(fails(ValueError("broken")))
    assert found["message"] == "it fails"
    assert found["traceback"].startswith("Traceback (most recent call last):\n  File ")
    assert found["traceback"].endswith("ValueError: broken")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cdn.example/a/b.safetensors?X-Signature=abc&x=1", "https://cdn.example/a/b.safetensors?…"),
        ("https://user:pass@host:8080/path#part", "https://host:8080/path?…"),
        ("https://token@host", "https://host"),
        ("ipc:///run/worker.sock", "ipc:///run/worker.sock"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ('"https://a/?k=1" and https://b/?k=2, too', '"https://a/?…" and https://b/?… too'),
    ],
)
def test_urls_lose_their_secrets(url: str, shown: str) -> None:
    assert harmless(url) == harmless(shown) == shown
    assert text(lambda log: log.warning("cannot fetch %s", url)) == f"WARNING cannot fetch {shown}\n"
    assert shown in text(fails(OSError(url)))


# ---- what clients and models say -----------------------------------------------------------------------------------


class LibraryError(Exception):
    pass


def cause_of(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise OSError("outer") from error
    except OSError as error:
        return error


@pytest.mark.parametrize("hidden", [ValueError(QUOTE), KeyError(QUOTE), Exception(QUOTE), LibraryError(QUOTE),
                                    UnicodeError(QUOTE), AssertionError(QUOTE)])  # fmt: skip
def test_messages_that_may_quote_a_request_are_hidden(hidden: Exception) -> None:
    for error in (hidden, cause_of(hidden), ExceptionGroup("several", [hidden])):
        assert QUOTE not in text(fails(error), hides=True)
        assert QUOTE not in json.dumps(obj(fails(error), hides=True))
        assert "log_level debug shows it" in text(fails(error), hides=True)
        assert QUOTE in text(fails(error), hides=False)


@pytest.mark.parametrize("shown", [OSError("no room"), MemoryError("no room"), TypeError("no room"), RuntimeError(
    "[METAL] no room"), ValueError("[matmul] no room"), ImportError("no room")])  # fmt: skip
def test_messages_about_the_code_are_not(shown: Exception) -> None:
    assert "no room" in text(fails(shown), hides=True)


def test_a_record_may_say_that_its_errors_quote_nothing() -> None:
    def write(log: logging.Logger) -> None:
        try:
            raise ValueError("broken weights")
        except ValueError:
            log.exception("cannot load", extra={"shows_errors": True})

    assert "broken weights" in text(write, hides=True)


def test_what_led_to_an_error_is_shown_as_python_does() -> None:
    lines = error_lines(cause_of(KeyError("k")), hides=False)
    assert "KeyError: 'k'" in lines
    assert "The above exception was the direct cause of the following exception:" in lines
    assert lines[-1] == "OSError: outer"


def test_an_error_in_a_circle_ends() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert error_lines(one, hides=False)[-1] == "OSError: one"


# ---- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [b"a", b"x" * MAX_TRACE, b'with spaces and "quotes"', b"~!@#$%^&*()"])
def test_ids_that_are_kept(kept: bytes) -> None:
    assert trace_of(kept) == kept.decode()


@pytest.mark.parametrize("refused", [b"", b"x" * (MAX_TRACE + 1), b"a\tb", b"\x1b[31m", "grün".encode(), b"a\x7f"])
def test_ids_that_are_not(refused: bytes) -> None:
    assert trace_of(refused) is None


# ---- a whole process ----------------------------------------------------------------------------------------------

_PROCESS = """
import logging, sys, threading, warnings
from broker.wire.logs import configure
configure("broker", "info", sys.argv[1])
logging.getLogger("a").info("hello")
logging.getLogger("a").debug("too quiet")
warnings.warn("old\\x1b[31m", DeprecationWarning)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
raise OSError("the end")
"""


def test_warnings_and_errors_that_nothing_catches_are_events() -> None:
    command = [sys.executable, "-W", "always", "-c", _PROCESS]
    result = subprocess.run([*command, "json"], capture_output=True, text=True, timeout=60, check=False)
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(event["level"], event["message"].split(":")[0]) for event in events] == [
        ("info", "hello"), ("warning", "<string>"), ("critical", "an error that nothing catches, in a thread"),
        ("critical", "an error that nothing catches"),
    ]  # fmt: skip
    assert events[2]["traceback"].endswith("ZeroDivisionError: division by zero")
    assert events[3]["traceback"].endswith("OSError: the end")
    assert result.returncode == 1


def test_honcho_has_the_time_already() -> None:
    command = [sys.executable, "-c", _PROCESS, "text"]
    environment = {"HONCHO_PROCESS_NAME": "broker.1", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert result.stderr.splitlines()[0] == "INFO hello"


_RECORD = """
import logging
from broker.wire.logs import configure
configure("broker", "info", "text")
logging.getLogger().handlers[0].addFilter(lambda record: print(vars(record)))
logging.getLogger("a").info("hello")
"""


def test_nothing_is_found_out_that_no_line_shows() -> None:
    environment = {"HONCHO_PROCESS_NAME": "broker.1", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", _RECORD]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert "'thread': None" in result.stdout
    assert "'process': None" in result.stdout
    assert "'lineno': 0" in result.stdout
