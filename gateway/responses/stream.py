"""A streamed answer as the events of OpenAI's Responses. No sockets; the clock is an argument."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import orjson

from broker.wire.failure import Failure
from gateway.core.answer import Delta, End, TokenLogprob, ToolUse, joined
from gateway.core.custom_tools import InputText
from gateway.responses.dialect import STREAM_TYPE, failed_error
from gateway.responses.objects import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INCOMPLETE,
    Object,
    ResponseHead,
    call_item,
    is_silent,
    logprobs_of_text,
    message_item,
    reasoning_item,
    reasoning_part,
    state,
    status_of,
    stream_logprobs,
    text_part,
)

_DELTA = "response.output_text.delta"


@dataclass(slots=True)
class _Open:
    """The item that grows. kind: of its id, or its type; texts: its text, or the arguments of its call; input: of
    a call of a custom tool."""

    id: str
    index: int
    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    call: ToolUse | None = None
    input: InputText | None = None


class ResponseEvents:
    """The Renderer of one streamed answer. All of an event but its text is prepared once per item of text.

    Mutable state: the number of the next event, the complete items, the item that grows.
    """

    content_type = STREAM_TYPE
    is_complete = False

    def __init__(self, head: ResponseHead, now: Callable[[], float]) -> None:
        self._head = head
        self._now = now
        self._response = orjson.dumps(head.echo)[:-1]  # without the closing brace
        self._sequence = 0
        self._items: list[Object] = []
        self._open: _Open | None = None
        self._text_start = b""  # of the events of the text that grows; empty unless one does

    def render(self, items: Sequence[tuple[int, Delta | End]]) -> bytes:
        """All that waits, in order. There is one unit of work."""
        if len(items) == 1 and self._text_start:
            output = items[0][1]
            if type(output) is Delta and not (output.reasoning or output.tool_calls or output.logprobs):
                return self._text(output.text)  # nearly always
        events = [] if self._sequence else [self._begin()]
        for piece in _in_order([output.rest if isinstance(output, End) else output for _, output in items]):
            events += self._piece(piece)
        for _, output in items:
            if isinstance(output, End):
                events += self._finish(output)
        return b"".join(events)

    def keepalive(self) -> bytes:
        """An event that repeats the state: some clients take a stream for dead that sends nothing but comments."""
        return self._lifecycle(IN_PROGRESS, state(IN_PROGRESS)) if self._sequence else self._begin()

    def error(self, failure: Failure) -> bytes:
        """The response as far as it got, failed."""
        begin = b"" if self._sequence else self._begin()
        self._drop_call()
        output = [*self._items, self._grown(self._open, INCOMPLETE)] if self._open else self._items
        return begin + self._lifecycle(FAILED, state(FAILED, output, error=failed_error(failure)))

    def _begin(self) -> bytes:
        return self._lifecycle("created", state(IN_PROGRESS)) + self._lifecycle(IN_PROGRESS, state(IN_PROGRESS))

    def _lifecycle(self, kind: str, changing: Object) -> bytes:
        number = self._next()
        response = self._response + b"," + orjson.dumps(changing)[1:]
        name = f"response.{kind}".encode()
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,"response":%b}\n\n' % (name, name, number, response)

    def _event(self, kind: str, place: Object, fields: Object) -> bytes:
        data = orjson.dumps({"type": f"response.{kind}", "sequence_number": self._next(), **place, **fields})
        return b"event: response.%b\ndata: %b\n\n" % (kind.encode(), data)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _text(self, text: str) -> bytes:
        """Without logprobs."""
        if not text or self._open is None:
            return b""
        self._open.texts.append(text)
        number = self._sequence
        self._sequence = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._text_start, orjson.dumps(text), number)

    def _piece(self, piece: Delta) -> list[bytes]:
        events: list[bytes] = []
        if piece.reasoning:
            events += self._reasoning(piece.reasoning)
        if piece.text or (piece.logprobs and self._text_start):
            events += self._message(piece.text, logprobs_of_text(piece))
        for call in piece.tool_calls:
            events += self._call(call)
        return events

    def _reasoning(self, text: str) -> list[bytes]:
        events = self._opened("rs")
        assert self._open is not None
        self._open.texts.append(text)
        return [*events, self._event("reasoning_text.delta", self._part_place(), {"delta": text})]

    def _message(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[bytes]:
        events = self._opened("msg")
        assert self._open is not None
        if not logprobs:
            return [*events, self._text(text)]
        self._open.texts.append(text)
        self._open.logprobs += logprobs
        delta: Object = {"delta": text, "logprobs": stream_logprobs(logprobs)}
        return [*events, self._event("output_text.delta", self._part_place(), delta)]

    def _call(self, call: ToolUse) -> list[bytes]:
        """A call, or a piece of one."""
        events: list[bytes] = []
        if call.starts:
            events += self._close(COMPLETED)
            index = len(self._items)
            item = call_item(self._head, index, replace(call, arguments=""), IN_PROGRESS)
            is_custom = item["type"] == "custom_tool_call"
            self._open = _Open(
                str(item["id"]), index, str(item["type"]), call=call, input=InputText() if is_custom else None
            )
            events.append(self._event("output_item.added", {"output_index": index}, {"item": item}))
        if self._open is None or self._open.call is None:
            return events  # a piece without a beginning, which no worker sends
        self._open.texts.append(call.arguments)
        if self._open.input is not None:
            events += self._deltas("custom_tool_call_input.delta", self._open.input.push(call.arguments))
        else:
            events += self._deltas("function_call_arguments.delta", call.arguments)
        return [*events, *self._close(COMPLETED)] if call.ends else events

    def _deltas(self, kind: str, text: str) -> list[bytes]:
        return [self._event(kind, self._place(), {"delta": text})] if text else []

    def _opened(self, kind: str) -> list[bytes]:
        """With an item of text or reasoning that grows."""
        if self._open is not None and self._open.kind == kind:
            return []
        events = self._close(COMPLETED)
        index = len(self._items)
        self._open = _Open(self._head.id_of(kind, index), index, kind)
        is_text = kind == "msg"
        empty = (
            message_item(self._open.id, None, (), IN_PROGRESS)
            if is_text
            else reasoning_item(self._head, self._open.id, None, IN_PROGRESS)
        )
        events.append(self._event("output_item.added", {"output_index": index}, {"item": empty}))
        part = text_part("") if is_text else reasoning_part("")
        events.append(self._event("content_part.added", self._part_place(), {"part": part}))
        if is_text:
            place = orjson.dumps({"type": _DELTA, **self._part_place(), "logprobs": []})[:-1]
            self._text_start = b'event: %b\ndata: %b,"delta":' % (_DELTA.encode(), place)
        return events

    def _close(self, status: str) -> list[bytes]:
        """The end of the item that grows, if one does."""
        if (grown := self._open) is None:
            return []
        whole = "".join(grown.texts)
        events: list[bytes] = []
        item = self._grown(grown, status)
        match grown.kind:
            case "msg":
                done: Object = {"text": whole, "logprobs": stream_logprobs(grown.logprobs)}
                events.append(self._event("output_text.done", self._part_place(), done))
                part = text_part(whole, grown.logprobs)
                events.append(self._event("content_part.done", self._part_place(), {"part": part}))
            case "rs":
                events.append(self._event("reasoning_text.done", self._part_place(), {"text": whole}))
                part = reasoning_part(whole)
                events.append(self._event("content_part.done", self._part_place(), {"part": part}))
            case "function_call":
                events.append(self._event("function_call_arguments.done", self._place(), {"arguments": whole}))
            case _:
                assert grown.input is not None
                events += self._deltas("custom_tool_call_input.delta", grown.input.finish())
                events.append(self._event("custom_tool_call_input.done", self._place(), {"input": item["input"]}))
        events.append(self._event("output_item.done", {"output_index": grown.index}, {"item": item}))
        self._items.append(item)
        self._open, self._text_start = None, b""
        return events

    def _drop_call(self) -> None:
        """A call that is cut short is never done: clients run a call as soon as they read that it is."""
        if self._open is not None and self._open.call is not None:
            self._open = None

    def _grown(self, grown: _Open, status: str) -> Object:
        """The item as it is now."""
        whole = "".join(grown.texts)
        if grown.call is not None:
            return call_item(self._head, grown.index, replace(grown.call, arguments=whole), status)
        if grown.kind == "msg":
            return message_item(grown.id, whole, grown.logprobs, status)
        return reasoning_item(self._head, grown.id, whole, status)

    def _finish(self, end: End) -> list[bytes]:
        status = status_of(end)
        events = []
        has_said = any(item["type"] != "reasoning" for item in self._items)
        if is_silent(end, has_said=has_said or (self._open is not None and self._open.kind != "rs")):
            events += self._opened("msg")
        self._drop_call()
        events += self._close(status)
        completed_at = int(self._now()) if status == COMPLETED else None
        events.append(self._lifecycle(status, state(status, self._items, end=end, completed_at=completed_at)))
        self.is_complete = True
        return events

    def _place(self) -> Object:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": self._open.index}

    def _part_place(self) -> Object:
        return {**self._place(), "content_index": 0}


def _in_order(deltas: Sequence[Delta]) -> list[Delta]:
    """As few pieces as have the same items in the same order. A piece has reasoning first, then text, then calls."""
    groups: list[list[Delta]] = []
    has_text = has_calls = True
    for delta in deltas:
        if has_calls or (has_text and delta.reasoning):
            groups.append([])
            has_text = has_calls = False
        groups[-1].append(delta)
        has_text, has_calls = has_text or bool(delta.text), bool(delta.tool_calls)
    return [joined(group) for group in groups]
