"""Bodies of messages, and the work that they become."""

import json
from typing import Any

import orjson
import pytest

from broker.wire.failure import Failure, FailureError
from broker.wire.packing import pack, unpack
from broker.wire.work import Generate
from gateway.anthropic.requests import WantedMessage, parse
from gateway.core.sampling import Defaults

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hm."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Tells.", "input_schema": SCHEMA}
TIME = {"name": "time", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def text(words: Any, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def image(source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


def use(identity: Any = "toolu_1", name: Any = "weather", arguments: Any = None) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": identity,
        "name": name,
        "input": {"city": "Oslo"} if arguments is None else arguments,
    }


def result(identity: Any = "toolu_1", content: Any = "sunny", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


def says(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def wanted(*messages: Any, **fields: Any) -> WantedMessage:
    return parse(orjson.dumps({"max_tokens": 9, "messages": list(messages or [USER]), **fields}))


def work(*messages: Any, **fields: Any) -> Generate:
    """The work of these messages; it survives the wire."""
    read = wanted(*messages, **fields)
    unit = read.work([b"" for _ in read.conversation.images], Defaults(max_tokens=100))
    assert unpack(Generate, pack(unit)) == unit
    return unit


def refused(body: dict[str, Any] | bytes) -> Failure:
    with pytest.raises(FailureError) as caught:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    failure = caught.value.failure
    assert failure.code == "invalid_request"
    assert failure.param is None or failure.message.startswith(failure.param)
    return failure
