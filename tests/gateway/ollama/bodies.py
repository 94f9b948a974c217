"""Requests and answers of Ollama's API in tests."""

import json
from typing import Any

from gateway.ollama.replies import Clocks, OllamaHead

STAMP = "2026-11-28T12:00:00.000000Z"
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class PlayedClock:
    """Nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000

    def head(self, *, is_chat: bool = True, model: str = "Tiny:latest") -> OllamaHead:
        return OllamaHead(model, is_chat, self.now, Clocks(lambda: self.now, STAMP.encode))


def packed(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def lines_in(data: bytes) -> list[Any]:
    """What a client reads: every line is one object."""
    lines = data.split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line) for line in lines]
