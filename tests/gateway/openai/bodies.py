"""Bodies of chats and completions, and the work that they become."""

from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from broker.wire.packing import pack, unpack
from broker.wire.work import Generate
from gateway.core.sampling import Defaults
from gateway.openai.requests import chat_work, completion_work, parse_chat, parse_completion

DEFAULTS = Defaults(max_tokens=100)

USER = {"role": "user", "content": "Hi"}

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

TIME = {"type": "function", "function": {"name": "time"}}

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}

HELLO = {"type": "text", "text": "Hello"}

PNG = "data:image/png;base64,iVBORw0KGgo="


def picture(image_url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": image_url}


def chat(**fields: Any) -> list[Generate]:
    """The work of a chat with these fields; it survives the wire."""
    work = chat_work(parse_chat(orjson.dumps({"messages": [USER], **fields})), [], DEFAULTS)
    assert [unpack(Generate, pack(unit)) for unit in work] == work
    return work


def completion(prompt: Any, **fields: Any) -> list[Generate]:
    return completion_work(parse_completion(orjson.dumps({"prompt": prompt, **fields})), DEFAULTS)


def refused_chat(body: dict[str, Any] | bytes) -> FailureError:
    with pytest.raises(FailureError) as caught:
        parse_chat(body if isinstance(body, bytes) else orjson.dumps(body))
    assert caught.value.failure.code == "invalid_request"
    return caught.value
