"""Ollama's dialect: its errors, its stream's lines, and its names of the wire's fields and of models. Pure."""

import re
from collections.abc import Sequence

import orjson
from pydantic import BaseModel, ConfigDict

from broker.wire.failure import Code, Failure
from gateway.core.dialect import Json
from gateway.core.failure import STATUS

STREAM_TYPE = "application/x-ndjson"

# What Ollama writes behind a name without a tag, and before the name of a repository on the Hugging Face hub.
_NO_TAG = ":latest"
_HUBS = ("hf.co/", "huggingface.co/")

_OPTIONS = {
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "repetition_context_size": "repeat_last_n",
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop")},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
}
_NAMES = {"json_schema": "format", "inputs": "input", **{name: f"options.{own}" for name, own in _OPTIONS.items()}}
_LINE_ENDS = [(chr(code).encode(), rb"\u%04x" % code) for code in (0x85, 0x2028, 0x2029)]
_INPUT = re.compile(r"inputs(?=\[)")
_PART = re.compile(r"messages\[(\d+)\]\.parts\[(\d+)\]")
_IMAGE = re.compile(r"images\[(\d+)\]")
_THOUGHT = re.compile(r"(messages\[\d*\]\.)reasoning_content")
_TOOL = re.compile(r"(messages\[\d*\]\.)name")


class OllamaError(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(strict=True, extra="forbid")

    error: str


class OllamaDialect:
    """A Dialect."""

    name = "Ollama"
    error_answer = OllamaError

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """`{"error": message}`, with the name of the field in the message: there is no other place for it."""
        return {"error": message_of(failure)}


OLLAMA = OllamaDialect()


def message_of(failure: Failure) -> str:
    """Its message in Ollama's words, where clients look for them."""
    if failure.code is Code.MODEL_NOT_FOUND:
        return f"model not found: {failure.message}"
    if failure.param is None or failure.param in failure.message:
        return failure.message
    return f"{failure.param}: {failure.message}"


def line(fields: Json) -> bytes:
    """One line of a stream."""
    return on_one_line(orjson.dumps(fields)) + b"\n"


def on_one_line(json: bytes) -> bytes:
    """The same JSON without the characters that end a line to Unicode, and so to Ollama's client for Python."""
    if json.isascii():
        return json
    for character, escaped in _LINE_ENDS:
        json = json.replace(character, escaped)
    return json


def bare(name: str) -> str:
    """The name of a model without what only Ollama's clients write around it."""
    for hub in _HUBS:
        if name[: len(hub)].lower() == hub:
            name = name[len(hub) :]
    return name[: -len(_NO_TAG)] if name[-len(_NO_TAG) :].lower() == _NO_TAG else name


def tagged(name: str) -> str:
    """The name of a model as Ollama lists it: with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + _NO_TAG


def field_name(field: str) -> str:
    """Ollama's name of a field of the wire that stands alone."""
    return _NAMES.get(field) or _INPUT.sub("input", field)


def field_in_chat(field: str, images: Sequence[int]) -> str:
    """The same for a chat. images: how many each message has; on the wire they stand before its text."""
    if part := _PART.match(field):
        message, number = int(part[1]), int(part[2])
        count = images[message] if message < len(images) else 0
        name = f"images[{number}]" if number < count else "content"
        return f"messages[{message}].{name}{field[part.end() :]}"
    if image := _IMAGE.fullmatch(field):
        places = [(message, number) for message, count in enumerate(images) for number in range(count)]
        if int(image[1]) >= len(places):
            return "messages"
        message, number = places[int(image[1])]
        return f"messages[{message}].images[{number}]"
    field = _THOUGHT.sub(r"\1thinking", _TOOL.sub(r"\1tool_name", field))
    return field_name(field)
