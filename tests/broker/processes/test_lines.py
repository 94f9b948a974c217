"""What a process prints, as events: harmless, cut, and not more than anybody could read."""

import json
import tracemalloc

import pytest

from broker.processes.lines import MAX_CHARACTERS, TAIL_LINES, LogEvent, Printed
from broker.wire.log_text import harmless
from tests.timing import cpu_seconds

MIB = 1 << 20


def lines_of(*pieces: bytes) -> list[str]:
    printed = Printed()
    for piece in pieces:
        printed.feed(piece)
    return [event.text for event in [*printed.take(0.0), *printed.take_rest()]]


def event_of(**fields: object) -> bytes:
    return b"\x1e" + json.dumps(fields).encode() + b"\n"


def test_lines_in_any_pieces() -> None:
    text = b"one\ntwo\r\nthree"
    for cut in range(len(text)):
        assert lines_of(text[:cut], text[cut:]) == ["one", "two", "three"]


def test_a_progress_bar_is_what_a_terminal_shows_of_it() -> None:
    text = b"10 %\r50 %\r100 %\nnext\n"
    for cut in range(len(text)):
        assert lines_of(text[:cut], text[cut:]) == ["100 %", "next"]


def test_a_line_that_cannot_be_seen_is_none() -> None:
    assert lines_of(b"\n  \n\r\n") == []


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (b"\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x9b31m".encode(), r"\x9b31m"),  # CSI in one character
        ("a\u202eb".encode(), r"a\u202eb"),  # right to left
        ("a\u2028b".encode(), r"a\u2028b"),
        (b"a\x00b\x7f", r"a\x00b\x7f"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("Grüße, 世界 █ 🎉".encode(), "Grüße, 世界 █ 🎉"),
    ],
)
def test_nothing_reaches_a_terminal_raw(printed: bytes, shown: str) -> None:
    assert lines_of(printed) == [shown]
    assert harmless(shown) == shown


def test_an_event_of_the_log_of_a_worker() -> None:
    printed = Printed()
    printed.feed(event_of(level="WARNING", message="too \x1b hot", request_id="a b", lines=["Traceback", "\x07x"]))
    assert printed.take(0.0) == [LogEvent(r"too \x1b hot", 30, "a b", ("Traceback", r"\x07x"))]
    assert printed.tail == "too \\x1b hot\nTraceback\n\\x07x"


def test_an_event_ends_what_a_library_has_begun() -> None:
    assert lines_of(b"half a line", event_of(level="INFO", message="event")) == ["half a line", "event"]


@pytest.mark.parametrize(
    "data",
    [b"{}", b"[1]", b"not json", b'{"level": "LOUD", "message": "m"}', b'{"level": "INFO", "message": 1}',
     b'{"level": "INFO", "message": "m", "lines": 3}', b"[" * 100_000],
)  # fmt: skip
def test_what_only_looks_like_an_event_is_a_line(data: bytes) -> None:
    [text] = lines_of(b"\x1e" + data + b"\n")
    assert text.startswith(data[:10].decode())


def test_a_line_of_ten_megabytes_is_cut_and_takes_no_memory() -> None:
    printed = Printed()
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(160):
            printed.feed(piece)
            assert printed.take(0.0) == []
        printed.feed(b"\nnext\n")
        lines = [event.text for event in printed.take(0.0)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lines == ["x" * MAX_CHARACTERS + f"… ({160 * 65_536} bytes)", "next"]
    assert peak < MIB


@pytest.mark.parametrize("char", ["\x1b", "\u202e", "\U000e0001"])
def test_what_is_escaped_is_not_longer_than_a_line(char: str) -> None:
    data = (char * MAX_CHARACTERS).encode()
    [text] = lines_of(data)
    assert text == f"{harmless(char * MAX_CHARACTERS)[:MAX_CHARACTERS]}… ({len(data)} bytes)"
    printed = Printed()
    printed.feed(event_of(level="INFO", message=char * MAX_CHARACTERS, lines=[char * MAX_CHARACTERS]))
    [event] = printed.take(0.0)
    assert [len(line) for line in (event.text, *event.lines)] == [MAX_CHARACTERS] * 2


def test_of_a_url_at_the_end_of_what_is_shown_no_password_is_left() -> None:
    url = "https://somebody:hunter2@host.example/path"
    for start in range(MAX_CHARACTERS - len(url), MAX_CHARACTERS):
        before = "x" * (start - 1) + " "
        assert "hunter" not in "".join(lines_of((before + url).encode()))
        assert "hunter" not in "".join(lines_of(event_of(level="INFO", message=before + url, lines=[before + url])))


def test_a_line_of_which_little_can_be_shown_says_how_long_it_was() -> None:
    data = b"https://host.example/?" + b"q" * 4 * MAX_CHARACTERS + b" and what follows"
    assert lines_of(data) == [f"https://host.example/?…… ({len(data)} bytes)"]


def test_a_flood_is_left_out_but_for_its_last_lines() -> None:
    printed = Printed()
    texts: list[str] = []
    for number in range(0, 100_000, 1000):
        printed.feed(b"".join(b"%d\n" % n for n in range(number, number + 1000)))
        texts += [event.text for event in printed.take(0.0)]
    texts += [event.text for event in printed.take_rest()]
    assert texts[:1000] == [str(n) for n in range(1000)]
    assert texts[-TAIL_LINES:] == [str(n) for n in range(100_000 - TAIL_LINES, 100_000)]
    left_out = [text for text in texts if "left out" in text]
    assert left_out == [f"({100_000 - 1000 - TAIL_LINES} lines left out: it prints too much)"]
    assert printed.tail.splitlines() == texts[-TAIL_LINES:]


def test_a_process_that_prints_less_again_is_heard_again() -> None:
    printed = Printed()
    printed.feed(b"x\n" * 2000)
    assert len(printed.take(0.0)) == 1000
    assert printed.take(0.0) == []
    later = [event.text for event in printed.take(1.0)]
    assert later == [f"({1000 - TAIL_LINES} lines left out: it prints too much)", *["x"] * TAIL_LINES]
    printed.feed(b"calm\n")
    assert [event.text for event in printed.take(1.0)] == ["calm"]


def test_long_lines_count_more() -> None:
    printed = Printed()
    printed.feed((b"x" * 2000 + b"\n") * 1000)
    assert len(printed.take(0.0)) < 100


def test_a_flood_costs_little() -> None:
    """So much that a broker that reads it goes on with its other work: 64 KiB, as it reads them, in a few ms."""
    printed = Printed()
    data = b"\n" * 32_768 + b"x\n" * 16_384
    printed.feed(data)
    printed.take(0.0)

    def read() -> None:
        printed.feed(data)
        printed.take(0.0)

    assert min(cpu_seconds(read) for _ in range(20)) < 0.02  # the least: a busy machine makes every one dearer
