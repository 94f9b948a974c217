"""Outputs of the wire -> OpenAI's responses: whole objects, and the chunks of a stream. Pure: no sockets, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from broker.wire.body import ProtocolError
from broker.wire.failure import Failure
from broker.wire.outputs import FINAL, PARTIAL
from gateway.http.errors import error_object
from gateway.openai.fingerprint import SYSTEM_FINGERPRINT
from gateway.openai.parts import Parts, chat_logprobs, delta, message, text_logprobs

KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True, frozen=True)
class Ending:
    """The FINAL of a `Generate`. parts: what no PARTIAL held."""

    parts: Parts
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


_COUNTS = {"finish_reason": str, "prompt_tokens": int, "completion_tokens": int, "cached_tokens": int}


def ending_of(body: dict[str, Any]) -> Ending:
    """Raises ProtocolError where a field is missing or of another type."""
    for name, kind in _COUNTS.items():
        if type(body.get(name)) is not kind:
            raise ProtocolError(f"FINAL whose {name} is {body.get(name)!r}")
    parts = Parts()
    parts.add(body)
    return Ending(parts, **{name: body[name] for name in _COUNTS})


def usage(endings: Sequence[Ending], choices_per_prompt: int) -> dict[str, Any]:
    """OpenAI's usage. The prompt of several choices counts once."""
    first_choices = endings[::choices_per_prompt]
    prompt_tokens = sum(ending.prompt_tokens for ending in first_choices)
    completion_tokens = sum(ending.completion_tokens for ending in endings)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(ending.cached_tokens for ending in first_choices)},
    }


@dataclass(slots=True, frozen=True)
class Head:
    """What every object and chunk of one answer repeats. created: Unix seconds."""

    id: str
    model: str
    created: int
    is_chat: bool
    choices_per_prompt: int = 1

    def fields(self, kind: str) -> dict[str, Any]:
        """The leading fields; kind: OpenAI's `object`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }


def whole(head: Head, endings: Sequence[Ending]) -> dict[str, Any]:
    """The response of a request that is not streamed."""
    kind = "chat.completion" if head.is_chat else "text_completion"
    choices = [
        {"index": index, **_content(head, ending.parts), "finish_reason": ending.finish_reason}
        for index, ending in enumerate(endings)
    ]
    return {**head.fields(kind), "choices": choices, "usage": usage(endings, head.choices_per_prompt)}


def _content(head: Head, parts: Parts) -> dict[str, Any]:
    if head.is_chat:
        return {"message": message(parts), "logprobs": chat_logprobs(parts.logprobs)}
    return {"text": parts.text, "logprobs": text_logprobs(parts.logprobs, 0)}


class Chunks:
    """The chunks of one streamed answer. All of a chunk but its text is prepared once per stream; chunks with more than
    text are made one by one."""

    def __init__(self, head: Head, choices: int, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self._endings: dict[int, Ending] = {}
        self._choices = choices
        kind = "chat.completion.chunk" if head.is_chat else "text_completion"
        fields = orjson.dumps(head.fields(kind))[:-1]  # without the closing brace
        role, plain = (
            (b'"delta":{"role":"assistant","content":', b'"delta":{"content":') if head.is_chat else (b'"text":',) * 2
        )
        self._starts = starts = [b'data: %b,"choices":[{"index":%d,' % (fields, index) for index in range(choices)]
        self._before = [start + role for start in starts]
        self._before_later = [start + plain for start in starts]
        self._before_finish = [start + (b'"delta":{}' if head.is_chat else b'"text":""') for start in starts]
        # With include_usage every chunk has the field, null in all but the last.
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._after = (b"}" if head.is_chat else b"") + b',"logprobs":null,"finish_reason":null' + self._end
        # Per choice: calls of tools written so far, and characters of the tokens whose logprobs have been.
        self._calls = [0] * choices
        self._offsets = [0] * choices
        self._usage_start = b'data: %b,"choices":[],"usage":' % fields

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended; `render` has then written the end of the stream."""
        return len(self._endings) == self._choices

    def render(self, items: Sequence[tuple[int, int, dict[str, Any]]]) -> bytes:
        """(choice, PARTIAL or FINAL, body) of all that waits, in order, as chunks: one for the text of each choice.
        Raises ProtocolError for a body that is not one of a `Generate`."""
        if len(items) == 1 and items[0][1] == PARTIAL and len(items[0][2]) == 1:  # nearly always
            return self._text(items[0][0], _partial_text(items[0][2]))
        changed: dict[int, Parts] = {}
        ended = []
        for index, kind, body in items:
            if kind == FINAL:
                self._endings[index] = ending_of(body)
                ended.append(index)
            changed.setdefault(index, Parts()).add(body)
        chunks = [self._parts(index, p) for index, p in changed.items() if not p.is_empty or self._is_silent(index)]
        chunks += [self._finish(index) for index in ended]
        if self.is_complete:
            chunks.append(self._last())
        return b"".join(chunks)

    def _is_silent(self, index: int) -> bool:
        """Nothing of this choice has been written: its first chunk also names the role."""
        return self._before[index] is not self._before_later[index]

    def _parts(self, index: int, parts: Parts) -> bytes:
        if not parts.has_more:
            return self._text(index, parts.text)
        if self._head.is_chat:
            role = {"role": "assistant"} if self._is_silent(index) else {}
            content = b'"delta":' + orjson.dumps({**role, **delta(parts, self._calls[index])})
            logprobs = chat_logprobs(parts.logprobs)
        else:
            content = b'"text":' + orjson.dumps(parts.text)
            logprobs = text_logprobs(parts.logprobs, self._offsets[index])
        self._before[index] = self._before_later[index]
        self._calls[index] += len(parts.tool_calls)
        self._offsets[index] += sum(len(entry["token"]) for entry in parts.logprobs)
        rest = b',"logprobs":' + orjson.dumps(logprobs) + b',"finish_reason":null' + self._end
        return self._starts[index] + content + rest

    def _text(self, index: int, text: str) -> bytes:
        before = self._before[index]
        self._before[index] = self._before_later[index]
        return before + orjson.dumps(text) + self._after

    def _finish(self, index: int) -> bytes:
        reason = orjson.dumps(self._endings[index].finish_reason)
        return self._before_finish[index] + b',"logprobs":null,"finish_reason":' + reason + self._end

    def _last(self) -> bytes:
        if not self._include_usage:
            return DONE
        endings = [self._endings[index] for index in range(self._choices)]
        return self._usage_start + orjson.dumps(usage(endings, self._head.choices_per_prompt)) + b"}\n\n" + DONE


def _partial_text(body: dict[str, Any]) -> str:
    text = body.get("text")
    if not isinstance(text, str):
        raise ProtocolError(f"PARTIAL whose text is {text!r}")
    return text


def framed_error(failure: Failure) -> bytes:
    """The end of a stream that fails after its start."""
    return b"data: " + orjson.dumps(error_object(failure)) + b"\n\n" + DONE
