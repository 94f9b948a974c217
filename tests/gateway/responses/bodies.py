"""Bodies of Responses, the work that they become, and a check of what goes out by OpenAI's own types."""

import json
from typing import Any

import orjson
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from broker.wire.failure import Failure, FailureError
from broker.wire.packing import pack, unpack
from broker.wire.work import Generate
from gateway.core.sampling import Defaults
from gateway.responses.requests import parse_responses
from gateway.responses.text import ResponsesText

DEFAULTS = Defaults(max_tokens=100)
PNG = "data:image/png;base64,iVBORw0KGgo="
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
PATCH: dict[str, Any] = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'},
}
SERVER = {"type": "namespace", "name": "mcp__files__", "description": "Files.", "tools": [WEATHER | {"name": "read"}]}


def text_of(input_: Any = "Hi", **fields: Any) -> ResponsesText:
    return ResponsesText(parse_responses(json.dumps({"input": input_, **fields}).encode()))


def work_of(input_: Any = "Hi", **fields: Any) -> Generate:
    """The work of a request with these fields; it survives the wire."""
    text = text_of(input_, **fields)
    [work] = text.units([b"png"] * len(text.images), DEFAULTS)
    assert unpack(Generate, pack(work)) == work
    return work


def refused(input_: Any = "Hi", **fields: Any) -> Failure:
    with pytest.raises(FailureError) as caught:
        text_of(input_, **fields)
    assert caught.value.failure.code == "invalid_request"
    return caught.value.failure


_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# What goes out beside the fields of the installed types: Open Responses wants the first three, OpenAI sends the last.
_BESIDE = {"Response": {"store", "presence_penalty", "frequency_penalty"}, "ResponseCustomToolCall": {"status"}}


def checked_response(data: dict[str, Any]) -> dict[str, Any]:
    """Fails for a response that OpenAI's types do not know exactly so."""
    _check(Response.model_validate(data), data)
    return data


def checked_event(data: dict[str, Any]) -> dict[str, Any]:
    """The same for an event."""
    _check(_EVENTS.validate_python(data), data)
    return data


def _check(model: BaseModel, data: dict[str, Any]) -> None:
    assert orjson.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == data
    _no_extra(model)


def _no_extra(value: Any) -> None:
    if isinstance(value, BaseModel):
        name = type(value).__name__
        assert (value.model_extra or {}).keys() <= _BESIDE.get(name, set()), f"{name}: {value.model_extra}"
        for field in type(value).model_fields:
            _no_extra(getattr(value, field))
    elif isinstance(value, list):
        for entry in value:
            _no_extra(entry)


def events_in(stream: bytes) -> list[dict[str, Any]]:
    """Of a stream that is complete: each named by its type, numbered from 0, and of OpenAI's types."""
    events: list[dict[str, Any]] = []
    for frame in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(checked_event(event))
    return events
