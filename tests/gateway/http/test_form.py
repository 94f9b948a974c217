"""A multipart form with one file: read in any pieces, and refused with the name of the field where it is wrong."""

import os

import pytest

from broker.wire.failure import Code, FailureError
from gateway.http.form import MAX_FIELDS_BYTES, UploadForm, values_of

BOUNDARY = "----x7"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, value: bytes, more: str = "", headers: str = "") -> bytes:
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'.encode()
        + value
        + b"\r\n"
    )


END = f"--{BOUNDARY}--\r\n".encode()


def read(body: bytes, step: int = 0, content_type: str = TYPE) -> tuple[dict[str, list[str]], bytes]:
    form = UploadForm(content_type, "file")
    pieces = [body[start : start + step] for start in range(0, len(body), step)] if step else [body]
    audio = b"".join(map(form.feed, pieces))
    form.end()
    return form.fields, audio


def refused(body: bytes, content_type: str = TYPE) -> tuple[Code, str | None, str]:
    with pytest.raises(FailureError) as refusal:
        read(body, content_type=content_type)
    failure = refusal.value.failure
    return failure.code, failure.param, failure.message


@pytest.mark.parametrize("step", [0, 1, 2, 7, 64])
def test_the_bytes_of_the_file_come_as_they_were_sent(step: int) -> None:
    audio = b"\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--\x00" + os.urandom(300) + b"\r"
    body = (
        part("model", "köln".encode())
        + part("timestamp_granularities[]", b"word")
        + part("file", audio, '; filename="a.wav"', "Content-Type: text/html\r\nX-More: 1\r\n")
        + part("timestamp_granularities[]", b"segment")
        + END
    )
    fields, heard = read(body, step)
    assert heard == audio
    assert fields == {"model": ["köln"], "timestamp_granularities[]": ["word", "segment"]}


def test_the_name_alone_says_which_part_is_the_file() -> None:
    body = part("file", b"abc") + part("prompt", b"text", '; filename="x.txt"') + part("other", b"x") + END
    assert read(body) == ({"prompt": ["text"], "other": ["x"]}, b"abc")


def test_what_follows_the_last_boundary_is_nothing() -> None:
    assert read(part("file", b"abc") + END + b"more") == ({}, b"abc")


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b'{"model": "a"}', "application/json", "not 'application/json'"),
        (b"a", "", "not a body without a Content-Type"),
        (b"file=abc", "application/x-www-form-urlencoded", "not 'application/x-www-form-urlencoded'"),
        (part("file", b"a") + END, "multipart/form-data", "names no boundary"),
        (part("file", b"a") + END, "multipart/form-data; boundary=", "names no boundary"),
        (part("file", b"a") + END, f"multipart/form-data; boundary={'x' * 300}", "300"),
        (part("file", b"a"), TYPE, "ends before its last boundary"),
        (b"", TYPE, "ends before its last boundary"),
        (b"no boundary at all", TYPE, "boundary"),
        (f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + END, TYPE, "a part has no name"),
        (part("file", b"a") + part("file", b"b") + END, TYPE, "file is there twice"),
        (part("a", b"", headers=f"X-Long: {'x' * 9000}\r\n") + END, TYPE, "header"),
        (b"".join(part(f"f{number}", b"") for number in range(70)) + END, TYPE, "more than 64 parts"),
    ],
)
def test_what_is_no_such_form_is_a_400_that_names_the_file(body: bytes, content_type: str, why: str) -> None:
    code, param, message = refused(body, content_type)
    assert (code, param) == (Code.INVALID_REQUEST, "file")
    assert why in message


def test_texts_are_utf_8_and_bounded() -> None:
    assert refused(part("prompt", b"\xff") + END)[:2] == (Code.INVALID_REQUEST, "prompt")
    large = part("prompt", b"x" * MAX_FIELDS_BYTES) + part("model", b"x") + END
    assert refused(large)[:2] == (Code.REQUEST_TOO_LARGE, "model")


def test_lists_take_two_spellings_and_empty_fields_mean_nothing() -> None:
    fields = {"a[]": ["1", ""], "a": ["2"], "b": [""], "c": ["3"]}
    assert values_of(fields, frozenset({"a"})) == {"a": ["1", "2"], "c": "3"}
    with pytest.raises(FailureError) as refusal:
        values_of({"model": ["a", "b"]}, frozenset())
    assert refusal.value.failure.param == "model"


def test_values_that_say_nothing_are_dropped_and_do_not_count() -> None:
    references = part("known_speaker_references[]", b"x" * MAX_FIELDS_BYTES) * 2 + part("knowing[a]", b"b")
    form = UploadForm(TYPE, "file", frozenset({"known_speaker_references"}))
    form.feed(references + part("file", b"a") + END)
    form.end()
    assert form.fields == {"known_speaker_references[]": ["", ""], "knowing[a]": ["b"]}
