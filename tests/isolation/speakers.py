"""One streamed answer in each dialect, read from its bytes: the text, the error that ended it, and whether it ended.

Needs no client library: what counts is every byte on the wire, in the order of the wire.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Heard:
    """What has come of one stream. error: its message, and our code where the dialect has it. after_end: lines that
    came after the end."""

    text: str = ""
    error: tuple[str, str] | None = None
    is_ended: bool = False
    after_end: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Speaker:
    """A dialect as its clients speak it. hear: one line of the stream into what has been heard."""

    name: str
    path: str
    body: Callable[[str, str, int], dict[str, Any]]
    hear: Callable[[str, Heard], None]

    def read(self, response: httpx.Response, heard: Heard) -> Iterator[Heard]:
        """After every line that says something."""
        for line in response.iter_lines():
            if line and not line.startswith(":"):
                if heard.is_ended:
                    heard.after_end.append(line)
                self.hear(line, heard)
                yield heard


def _chat(model: str, content: str, tokens: int) -> dict[str, Any]:
    return {**_messages(model, content), "max_tokens": tokens, "temperature": 0, "stream": True}


def _messages(model: str, content: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def _hear_chat(line: str, heard: Heard) -> None:
    if line == "data: [DONE]":
        heard.is_ended = True
        return
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        heard.error = event["error"]["message"], event["error"]["code"]
    for choice in event.get("choices", []):
        heard.text += choice["delta"].get("content") or ""


def _hear_messages(line: str, heard: Heard) -> None:
    if line.startswith("event: "):
        return
    event = json.loads(line.removeprefix("data: "))
    match event:
        case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}:
            heard.text += text
        case {"type": "error", "error": {"message": message, "code": code}}:
            heard.error, heard.is_ended = (message, code), True
        case {"type": "message_stop"}:
            heard.is_ended = True


def _responses(model: str, content: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "input": content, "max_output_tokens": tokens, "temperature": 0, "stream": True}


def _hear_responses(line: str, heard: Heard) -> None:
    if line.startswith("event: "):
        return
    event = json.loads(line.removeprefix("data: "))
    match event["type"]:
        case "response.output_text.delta":
            heard.text += event["delta"]
        case "response.failed":
            error = event["response"]["error"]
            heard.error, heard.is_ended = (error["message"], error["type"]), True
        case "response.completed" | "response.incomplete":
            heard.is_ended = True


def _ollama(model: str, content: str, tokens: int) -> dict[str, Any]:
    return {**_messages(model, content), "options": {"num_predict": tokens, "temperature": 0}}


def _hear_ollama(line: str, heard: Heard) -> None:
    event = json.loads(line)
    if "error" in event:
        heard.error, heard.is_ended = (event["error"], ""), True
        return
    heard.text += event["message"]["content"]
    heard.is_ended = event["done"]


CHAT = Speaker("chat", "/v1/chat/completions", _chat, _hear_chat)
SPEAKERS = (
    CHAT,
    Speaker("messages", "/v1/messages", _chat, _hear_messages),
    Speaker("responses", "/v1/responses", _responses, _hear_responses),
    Speaker("ollama", "/api/chat", _ollama, _hear_ollama),
)
