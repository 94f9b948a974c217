"""An engine without a model: repeats the prompt, four characters to a token, one token per request and step.

For tests, demos and benchmarks of everything around an engine. Must stay fast, because its speed limits what they
measure, and must never import mlx.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from broker.wire.failure import invalid
from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.begun import TELL_EVERY, begun_of, cannot_go_on, check_characters
from worker.chat.messages import plain_messages
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report

_TOKEN_CHARACTERS = 4


@dataclass(slots=True)
class _Echo:
    tokens: list[str]
    stream: bool
    max_tokens: int
    finish_reason: str
    tells: bool = False
    sent: int = 0


class EchoEngine:
    """Engine for the type `echo`. Without max_tokens it returns the prompt once (`stop`); with max_tokens exactly that
    many tokens, starting over if the prompt is shorter (`length`). The id of a token is its place in the answer.

    The option `delay_seconds` is the duration of every step, 0 by default.
    """

    def __init__(self, assign: Assign, report: Report) -> None:
        self._delay_seconds = float(assign.options.get("delay_seconds", 0))
        self._live: dict[bytes, _Echo] = {}
        self._prompt_tokens = self._generated = 0
        report("weights", 1.0)

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(weights_bytes=0)

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    def memory(self) -> MemoryFacts:
        return MemoryFacts()

    def stats(self) -> EngineStats:
        live = len(self._live)
        return EngineStats(live, decoding=live, generation_tokens=self._generated, prompt_tokens=self._prompt_tokens)

    def add(self, request_id: bytes, payload: bytes) -> None:
        echo = self._live[request_id] = _echo(unpack(Generate, payload))
        self._prompt_tokens += len(echo.tokens)

    def count(self, payload: bytes) -> Iterator[int | None]:
        """As Count of worker/engine.py, in one piece."""
        yield len(_echo(unpack(Generate, payload)).tokens)

    def step(self) -> list[Output]:
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        outputs = []
        ended = []
        self._generated += len(self._live)
        for request_id, echo in self._live.items():
            echo.sent += 1
            if echo.sent == echo.max_tokens:
                outputs.append(Output(request_id, FINAL, _final_body(echo)))
                ended.append(request_id)
            elif echo.stream or (echo.tells and echo.sent % TELL_EVERY == 1):
                outputs.append(Output(request_id, PARTIAL, _partial_body(echo)))
        for request_id in ended:
            del self._live[request_id]
        return outputs

    def cancel(self, request_id: bytes) -> None:
        self._live.pop(request_id, None)


def echoed_text(request: Generate) -> str:
    """The text to repeat: that of the last user message, or the prompt. Raises FailureError."""
    if request.messages is not None:
        users = [m for m in plain_messages(request.messages) if m["role"] == "user"]
        return str(users[-1]["content"]) if users else ""
    if isinstance(request.prompt, str):
        return request.prompt
    return " ".join(str(token) for token in request.prompt or [])


def _echo(request: Generate) -> _Echo:
    """Raises FailureError."""
    text = echoed_text(request)
    if not text:
        raise invalid("there is nothing to echo", param="messages")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise invalid(f"max_tokens must be at least 1, not {request.max_tokens}", param="max_tokens")
    tokens = [text[i : i + _TOKEN_CHARACTERS] for i in range(0, len(text), _TOKEN_CHARACTERS)]
    reason = "stop" if request.max_tokens is None else "length"
    echo = _Echo(tokens, request.stream, request.max_tokens or len(tokens), reason, request.tells_tokens)
    if (begun := begun_of(request)) is not None:
        echo.sent = len(begun.ids)
        if echo.sent >= echo.max_tokens or begun.ids != [*range(echo.sent)]:
            raise cannot_go_on("its tokens are not those of an echo")
        said = "".join(_token(echo, index) for index in range(echo.sent)) if echo.stream else ""
        check_characters(begun, len(said))
    return echo


def _token(echo: _Echo, index: int) -> str:
    return echo.tokens[index % len(echo.tokens)]


def _partial_body(echo: _Echo) -> dict[str, Any]:
    newest = echo.sent - 1
    body: dict[str, Any] = {"text": _token(echo, newest) if echo.stream else ""}
    if echo.tells:
        body["ids"] = newest if echo.stream else [*range(max(echo.sent - TELL_EVERY, 0), echo.sent)]
    if echo.sent == 1:
        body["prompt"] = {"tokens": len(echo.tokens), "cached": 0}
    return body


def _final_body(echo: _Echo) -> dict[str, Any]:
    first = echo.max_tokens - 1 if echo.stream else 0
    return {
        "text": "".join(_token(echo, index) for index in range(first, echo.max_tokens)),
        "finish_reason": echo.finish_reason,
        "prompt_tokens": len(echo.tokens),
        "completion_tokens": echo.max_tokens,
        "cached_tokens": 0,
    }
