"""OpenAI's dialect: its errors, its stream's frames, and its names of the wire's fields. Pure."""

import re
from collections.abc import Sequence

import orjson

from broker.wire.failure import Failure
from gateway.core.content import Content, Image, SoundFile
from gateway.core.dialect import Json
from gateway.core.failure import STATUS, ErrorAnswer, error_object

STREAM_TYPE = "text/event-stream; charset=utf-8"
KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"

_NAMES = {"json_schema": "response_format", "required_tools": "tool_choice", "inputs": "input"}
_PART = re.compile(r"messages\[(\d+)\]\.parts\[(\d+)\]")
_FILE = re.compile(r"(images|audios)\[(\d+)\]")
_FILES: dict[str, type[Image | SoundFile]] = {"images": Image, "audios": SoundFile}
_INPUT = re.compile(r"inputs(?=\[)")


class OpenAIDialect:
    """A Dialect."""

    name = "OpenAI"
    error_answer = ErrorAnswer

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """`{"error": {message, type, param, code, retryable}}`."""
        return error_object(failure)


OPENAI = OpenAIDialect()


def framed_error(failure: Failure) -> bytes:
    """The end of a stream that fails after its start."""
    return b"data: " + orjson.dumps(error_object(failure)) + b"\n\n" + DONE


def field_name(field: str) -> str:
    """OpenAI's name of a field of the wire that stands alone."""
    return _NAMES.get(field) or _INPUT.sub("input", field)


def field_in_chat(field: str, contents: Sequence[Content]) -> str:
    """The same for a chat whose messages have these contents: parts and files are where the client put them."""
    if part := _PART.match(field):  # a field of the part may follow
        return _part_name(int(part[1]), int(part[2]), contents) + field[part.end() :]
    if file := _FILE.fullmatch(field):
        places = _places(contents, _FILES[file[1]])
        number = int(file[2])
        return _part_name(*places[number], contents) if number < len(places) else "messages"
    return field_name(field)


def _places(contents: Sequence[Content], kind: type[Image | SoundFile]) -> list[tuple[int, int]]:
    """(message, part) of each file of this kind, in their order."""
    return [
        (position, number)
        for position, content in enumerate(contents)
        if not isinstance(content, str)
        for number, part in enumerate(content)
        if isinstance(part, kind)
    ]


def _part_name(position: int, number: int, contents: Sequence[Content]) -> str:
    name = f"messages[{position}].content[{number}]"
    content = contents[position] if position < len(contents) else ""
    is_image = not isinstance(content, str) and number < len(content) and isinstance(content[number], Image)
    return f"{name}.image_url" if is_image else name
