"""What a client of each dialect asks, streamed and whole, and what it is told, without ids, times and sizes of pieces.

The same answer is told in the same words, whatever happens to the process that gives it.
"""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

# What differs between two equal answers.
_OF_ONE_ANSWER = frozenset(
    {
        *("id", "created", "created_at", "completed_at", "item_id", "call_id", "sequence_number"),
        *("total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "encrypted_content", "signature"),
    }
)

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "size", "ok"],
    "additionalProperties": False,
}
_LOGPROBS = {"logprobs": True, "top_logprobs": 2}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass(frozen=True)
class Wish:
    """What is asked for. said: the prompt. stop: a stop string, which Responses does not have."""

    model: str
    tokens: int
    said: str = "Hello"
    stop: str | None = None
    has_schema: bool = False
    has_tools: bool = False


@dataclass(frozen=True)
class Client:
    """A dialect, streamed or not. seed: of one that draws its tokens, which only Ollama's can have here."""

    dialect: str
    stream: bool
    seed: int | None = None

    def ask(self, http: httpx.Client, wish: Wish) -> Any:
        """The answer as this client understands it. AssertionError if it is none, or has no end."""
        path, body = _BODIES[self.dialect](wish)
        body |= {"model": wish.model, "stream": self.stream}
        if self.seed is not None:
            body["options"] |= {"temperature": 0.8, "seed": self.seed}
        if not self.stream:
            if self.dialect == "chat":
                body |= _LOGPROBS
            response = http.post(path, json=body)
            assert response.status_code == 200, response.text
            return plain(response.json())
        if self.dialect == "chat":
            body["stream_options"] = {"include_usage": True}
        with http.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            lines = [line for line in response.iter_lines() if line and not line.startswith((":", "event:"))]
        return _TOLD[self.dialect]([line.removeprefix("data: ") for line in lines])


def logprobs(http: httpx.Client, wish: Wish) -> list[dict[str, Any]]:
    """The tokens of the answer, each with the two likeliest in its place."""
    path, body = _chat(wish)
    body |= {"model": wish.model, **_LOGPROBS}
    entries: list[dict[str, Any]] = http.post(path, json=body).json()["choices"][0]["logprobs"]["content"]
    return entries


DIALECTS = ("chat", "messages", "responses", "ollama")
# With this seed the first byte is a character: from the first token on there is text to tell.
SEEDS = {("ollama", True): 5}
CLIENTS = [Client(*one, SEEDS.get(one)) for one in itertools.product(DIALECTS, (True, False))]


def _user(wish: Wish) -> list[dict[str, str]]:
    return [{"role": "user", "content": wish.said}]


def _chat(wish: Wish) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"messages": _user(wish), "max_tokens": wish.tokens, "temperature": 0}
    if wish.stop:
        body["stop"] = [wish.stop]
    if wish.has_schema:
        form = {"name": "thing", "schema": SCHEMA, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if wish.has_tools:
        body["tools"] = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
    return "/v1/chat/completions", body


def _messages(wish: Wish) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"messages": _user(wish), "max_tokens": wish.tokens, "temperature": 0}
    if wish.stop:
        body["stop_sequences"] = [wish.stop]
    if wish.has_schema:
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    if wish.has_tools:
        body["tools"] = [{"name": "weather", "input_schema": CITY}]
    return "/v1/messages", body


def _responses(wish: Wish) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"input": wish.said, "max_output_tokens": wish.tokens, "temperature": 0}
    if wish.has_schema:
        body["text"] = {"format": {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}}
    if wish.has_tools:
        body["tools"] = [{"type": "function", "name": "weather", "parameters": CITY}]
    return "/v1/responses", body


def _ollama(wish: Wish) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"num_predict": wish.tokens, "temperature": 0}
    if wish.stop:
        options["stop"] = [wish.stop]
    body: dict[str, Any] = {"messages": _user(wish), "options": options}
    if wish.has_schema:
        body["format"] = SCHEMA
    if wish.has_tools:
        body["tools"] = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
    return "/api/chat", body


_BODIES = {"chat": _chat, "messages": _messages, "responses": _responses, "ollama": _ollama}


def plain(value: Any) -> Any:
    """Without what differs between two equal answers."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items() if name not in _OF_ONE_ANSWER}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


@dataclass
class _Told:
    """A stream, joined. texts: by what they are part of; ids: of calls, each of which must stay the same."""

    texts: dict[Any, str] = field(default_factory=dict)
    ends: list[Any] = field(default_factory=list)
    ids: dict[Any, str] = field(default_factory=dict)

    def add(self, key: Any, text: str | None) -> None:
        if text:
            self.texts[key] = self.texts.get(key, "") + text

    def call(self, key: Any, call_id: str | None) -> None:
        if call_id:
            assert self.ids.setdefault(key, call_id) == call_id, "a call that has changed its id"

    def end(self, value: Any) -> None:
        self.ends.append(plain(value))

    @property
    def whole(self) -> Any:
        return self.texts, self.ends, len(self.ids)


def _told_chat(lines: list[str]) -> Any:
    told = _Told()
    assert lines[-1] == "[DONE]", lines[-1]
    for line in lines[:-1]:
        event = json.loads(line)
        assert "error" not in event, event
        if event.get("usage"):
            told.end(event["usage"])
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                told.add(name, delta.get(name))
            for call in delta.get("tool_calls", []):
                told.call(call["index"], call.get("id"))
                for name in ("name", "arguments"):
                    told.add((call["index"], name), call["function"].get(name))
            if choice["finish_reason"]:
                told.end(choice["finish_reason"])
    return told.whole


def _told_messages(lines: list[str]) -> Any:
    told = _Told()
    for line in lines:
        event = json.loads(line)
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                told.add((index, "type"), block["type"])
                told.add((index, "name"), block.get("name"))
                told.call(index, block.get("id"))
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                for name in ("text", "thinking", "partial_json"):
                    told.add((index, name), delta.get(name))
            case {"type": "message_start" | "message_delta" | "message_stop" | "error"}:
                told.end(event)
    assert json.loads(lines[-1]) == {"type": "message_stop"}, lines[-1]
    return told.whole


def _told_responses(lines: list[str]) -> Any:
    told = _Told()
    for line in lines:
        event = json.loads(line)
        if "delta" in event:
            told.add((event["type"], event["output_index"]), event["delta"])
        elif event["type"] not in ("response.in_progress", "response.created"):
            told.end(event)
    assert json.loads(lines[-1])["type"] in ("response.completed", "response.incomplete"), lines[-1]
    return told.whole


def _told_ollama(lines: list[str]) -> Any:
    told = _Told()
    for line in lines:
        event = json.loads(line)
        message = event.pop("message")
        told.add("content", message.get("content"))
        told.add("thinking", message.get("thinking"))
        for call in message.get("tool_calls", []):
            told.end(call)
        if event["done"]:
            told.end(event)
    assert json.loads(lines[-1])["done"], lines[-1]
    return told.whole


_TOLD = {"chat": _told_chat, "messages": _told_messages, "responses": _told_responses, "ollama": _told_ollama}
