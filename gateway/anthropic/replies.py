"""Answers -> Anthropic's message, and the events of its stream. No sockets, no clock."""

from collections.abc import Iterator, Sequence

import orjson

from broker.wire.failure import Failure
from gateway.anthropic.dialect import PING, STREAM_TYPE, frame, framed_error
from gateway.core.answer import Delta, End, PromptUsage, ToolUse, joined

Object = dict[str, object]

# Nothing here signs reasoning, and any signature is taken back. Some clients send back only what has one.
_SIGNATURE = "unsigned"


def whole(message_id: str, model: str, end: End) -> Object:
    """The response of a request that is not streamed."""
    content: list[Object] = []
    if end.rest.reasoning.strip():
        content.append({"type": "thinking", "thinking": end.rest.reasoning, "signature": _SIGNATURE})
    if end.rest.text.strip():
        content.append({"type": "text", "text": end.rest.text})
    # As the model wrote it: reading its numbers might round them.
    content += [{**_use(call), "input": orjson.Fragment(call.arguments)} for call in end.rest.tool_calls]
    return {**_message(message_id, model), "content": content, **_stop(end), "usage": _usage(end)}


def _message(message_id: str, model: str) -> Object:
    return {"id": message_id, "type": "message", "role": "assistant", "model": model}


def _use(call: ToolUse) -> Object:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _stop(end: End) -> Object:
    match end.finish_reason:
        case "tool_calls":
            reason = "tool_use"
        case "length":
            reason = "model_context_window_exceeded" if end.context_full else "max_tokens"
        case _:
            reason = "end_turn" if end.stop_string is None else "stop_sequence"
    stopped_by = end.stop_string if reason == "stop_sequence" else None
    return {"stop_reason": reason, "stop_sequence": stopped_by, "stop_details": None}


def _prompt_usage(prompt: PromptUsage) -> Object:
    """As Anthropic has it, tokens that the cache had are not among the input tokens. Nothing is paid for writing the
    cache, so no token counts as written."""
    return {
        "input_tokens": prompt.tokens - prompt.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": prompt.cached,
    }


def _usage(end: End) -> Object:
    return {
        **_prompt_usage(PromptUsage(end.prompt_tokens, end.cached_tokens)),
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"thinking_tokens": end.reasoning_tokens},
    }


class MessageEvents:
    """The Renderer of one streamed answer. A block is open until another kind of output or the end; blanks alone open
    none. All of an event but its text is prepared when its block opens."""

    content_type = STREAM_TYPE

    def __init__(self, message_id: str, model: str) -> None:
        self._head = _message(message_id, model)
        self._has_begun = False
        self._open: str | None = None  # the type of the block that is
        self._index = -1
        self._before_text = b""  # of a delta, while a block of text is open
        self._blanks = ("", "")  # the type of block that they would open, and they
        self.is_complete = False

    def render(self, items: Sequence[tuple[int, Delta | End]]) -> bytes:
        """All that waits, in order."""
        if len(items) == 1 and self._before_text and not self._blanks[1]:
            output = items[0][1]
            if type(output) is Delta and not (output.reasoning or output.tool_calls):  # nearly always
                return self._before_text + orjson.dumps(output.text) + b"}}\n\n" if output.text else b""
        frames: list[bytes] = []
        if not self._has_begun:
            self._has_begun = True
            frames.append(self._start(items[0][1]))
        for piece in _pieces(items):
            frames += self._piece(piece)
        if isinstance(end := items[-1][1], End):
            frames += [self._close(), frame("message_delta", {"delta": _stop(end), "usage": _usage(end)})]
            frames.append(frame("message_stop", {}))
            self.is_complete = True
        return b"".join(frames)

    def keepalive(self) -> bytes:
        """A ping."""
        return PING

    def error(self, failure: Failure) -> bytes:
        """The event that ends the stream."""
        return framed_error(failure)

    def _start(self, first: Delta | End) -> bytes:
        if isinstance(first, End):
            prompt = PromptUsage(first.prompt_tokens, first.cached_tokens)
        else:
            prompt = first.prompt or PromptUsage(0, 0)
        usage = {**_prompt_usage(prompt), "output_tokens": 0}
        message = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return frame("message_start", {"message": message})

    def _piece(self, piece: Delta) -> Iterator[bytes]:
        if piece.reasoning:
            yield self._say("thinking", piece.reasoning)
        if piece.text:
            yield self._say("text", piece.text)
        for call in piece.tool_calls:
            if call.starts:
                yield self._begin({**_use(call), "input": {}})
            if call.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
            if call.ends:
                yield self._close()

    def _say(self, kind: str, text: str) -> bytes:
        opening = b""
        (of, blanks), self._blanks = self._blanks, ("", "")
        if self._open != kind:
            text = blanks + text if of == kind else text
            if not text.strip():
                self._blanks = (kind, text)
                return b""
            empty: Object = (
                {"type": "text", "text": ""} if kind == "text" else {"type": kind, kind: "", "signature": ""}
            )
            opening = self._begin(empty)
        if kind == "text":
            return opening + self._before_text + orjson.dumps(text) + b"}}\n\n"
        return opening + self._delta({"type": "thinking_delta", "thinking": text})

    def _begin(self, block: Object) -> bytes:
        closing = self._close()
        self._index += 1
        self._open = str(block["type"])
        if self._open == "text":
            fields = b'{"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":' % self._index
            self._before_text = b"event: content_block_delta\ndata: " + fields
        return closing + frame("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: Object) -> bytes:
        return frame("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        """The end of the open block, if one is."""
        self._blanks = ("", "")
        if self._open is None:
            return b""
        signing = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "thinking" else b""
        self._open, self._before_text = None, b""
        return signing + frame("content_block_stop", {"index": self._index})


def _pieces(items: Sequence[tuple[int, Delta | End]]) -> Iterator[Delta]:
    """What waits as few pieces, each in the order reasoning, text, calls."""
    run: list[Delta] = []
    has_text = False
    for _unit, output in items:
        piece = output.rest if isinstance(output, End) else output
        if run and (run[-1].tool_calls or (piece.reasoning and has_text)):
            yield joined(run)
            run, has_text = [], False
        run.append(piece)
        has_text = has_text or bool(piece.text)
    yield joined(run)
