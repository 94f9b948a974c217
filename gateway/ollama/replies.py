"""Answers -> Ollama's responses: whole objects, and the lines of a stream. No sockets, no clock of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from broker.wire.failure import Failure
from gateway.core.answer import Delta, End, TokenLogprob, ToolUse, by_choice
from gateway.ollama.dialect import OLLAMA, STREAM_TYPE, line, on_one_line

Object = dict[str, object]


@dataclass(slots=True, frozen=True)
class Clocks:
    """now: nanoseconds that only grow. stamp: the time of day, RFC 3339."""

    now: Callable[[], int]
    stamp: Callable[[], bytes]


@dataclass(slots=True, frozen=True)
class OllamaHead:
    """What an answer begins with. model: as the client named it; started: by `clocks.now`."""

    model: str
    is_chat: bool
    started: int
    clocks: Clocks

    def fields(self) -> Object:
        """Of a line."""
        return {"model": self.model, "created_at": self.clocks.stamp().decode()}

    def said(self, piece: Delta, calls: Sequence[ToolUse] = (), calls_before: int = 0) -> Object:
        """What a piece of an answer, or all of it, says. calls: complete ones, numbered from `calls_before`."""
        if not self.is_chat:
            return {"response": piece.text, **_thinking(piece), **_logprobs(piece.logprobs)}
        called = {"tool_calls": [_call(n, call) for n, call in enumerate(calls, calls_before)]} if calls else {}
        message = {"role": "assistant", "content": piece.text, **_thinking(piece), **called}
        return {"message": message, **_logprobs(piece.logprobs)}

    def finish(self, end: End, first_at: int | None) -> Object:
        """The fields that end an answer. first_at: when its first output came, None if that was all of it.

        The gateway sees no load apart from the prefill: both are in the time to the first output, and so is waiting.
        Of an answer in one piece it sees neither."""
        now = self.clocks.now()
        began = self.started if first_at is None else first_at
        return {
            "done": True,
            "done_reason": "length" if end.finish_reason == "length" else "stop",
            "total_duration": now - self.started,
            "load_duration": 0,
            "prompt_eval_count": end.prompt_tokens,
            "prompt_eval_duration": began - self.started,
            "eval_count": end.completion_tokens,
            "eval_duration": max(now - began, 1),
        }


def whole_answer(head: OllamaHead, end: End) -> Object:
    """The response of a request that is not streamed."""
    return {**head.fields(), **head.said(end.rest, end.rest.tool_calls), **head.finish(end, None)}


def empty_answer(head: OllamaHead, reason: str) -> Object:
    """The response of a request that asks for no text. reason: `load` or `unload`."""
    took = head.clocks.now() - head.started
    done = {"done": True, "done_reason": reason, "total_duration": took, "load_duration": took}
    return {**head.fields(), **head.said(Delta()), **done}


class Lines:
    """The Renderer of one streamed answer. All of a line but its text and time is prepared once per stream."""

    content_type = STREAM_TYPE

    def __init__(self, head: OllamaHead) -> None:
        self.is_complete = False
        self._head = head
        self._stamp = head.clocks.stamp
        self._before_time = b'{"model":%b,"created_at":"' % on_one_line(orjson.dumps(head.model))
        self._before_text = b'","message":{"role":"assistant","content":' if head.is_chat else b'","response":'
        self._after_text = b'},"done":false}\n' if head.is_chat else b',"done":false}\n'
        self._first_at: int | None = None
        self._calls = 0  # that have been written
        self._begun: list[str] = []  # arguments of a call that comes in pieces

    def render(self, items: Sequence[tuple[int, Delta | End]]) -> bytes:
        """One line for all that waits, and one for the end."""
        if len(items) == 1 and self._first_at is not None:
            output = items[0][1]
            # Nearly always, and then nearly always text alone.
            if type(output) is Delta and not (output.reasoning or output.tool_calls or output.logprobs):
                return self._text(output.text)
        pieces, ends = by_choice(items)
        lines = [self._piece(piece) for piece in pieces.values()]
        for end in ends.values():
            finish = self._head.finish(end, self._first_at)
            lines.append(line({**self._head.fields(), **self._head.said(Delta()), **finish}))
            self.is_complete = True
        if self._first_at is None:
            self._first_at = self._head.clocks.now()
        return b"".join(lines)

    def keepalive(self) -> bytes:
        """A line that says nothing."""
        return self._text("")

    def error(self, failure: Failure) -> bytes:
        """The last line."""
        return line(OLLAMA.error(failure))

    def _text(self, text: str) -> bytes:
        return (
            self._before_time + self._stamp() + self._before_text + on_one_line(orjson.dumps(text)) + self._after_text
        )

    def _piece(self, piece: Delta) -> bytes:
        """Empty if a client would see nothing of it. A call is written when it is complete."""
        calls = [call for call in map(self._complete, piece.tool_calls) if call is not None]
        if not (piece.text or piece.reasoning or piece.logprobs or calls):
            return b""
        said = self._head.said(piece, calls, self._calls)
        self._calls += len(calls)
        return line({**self._head.fields(), **said, "done": False})

    def _complete(self, call: ToolUse) -> ToolUse | None:
        """The call once it has ended."""
        if call.starts:
            self._begun = []
        self._begun.append(call.arguments)
        return replace(call, arguments="".join(self._begun), starts=True) if call.ends else None


def _thinking(piece: Delta) -> Object:
    return {"thinking": piece.reasoning} if piece.reasoning else {}


def _logprobs(entries: Sequence[TokenLogprob]) -> Object:
    if not entries:
        return {}
    tokens = []
    for entry in entries:
        token = _token(entry)
        if entry.top:
            token["top_logprobs"] = [_token(other) for other in entry.top]
        tokens.append(token)
    return {"logprobs": tokens}


def _token(entry: TokenLogprob) -> Object:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes_)}


def _call(index: int, call: ToolUse) -> Object:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": _object(call.arguments)}}


def _object(arguments: str) -> object:
    """The object that the text says, with every digit of its numbers; on one line, as a stream needs it."""
    try:
        if isinstance(orjson.loads(arguments), dict):
            return orjson.Fragment(arguments.replace("\n", " ").replace("\r", " "))
    except orjson.JSONDecodeError:  # none is sent that is not JSON, but orjson refuses more than others
        pass
    return {}
