"""Answers -> OpenAI's responses: whole objects, and the chunks of a stream. No sockets, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import orjson

from broker.wire.failure import Failure
from gateway.core.answer import Delta, End, by_choice
from gateway.openai.calls import FUNCTION_CALLS, CallStyle, CallWriter, Object
from gateway.openai.dialect import DONE, KEEPALIVE, STREAM_TYPE, framed_error
from gateway.openai.fingerprint import SYSTEM_FINGERPRINT
from gateway.openai.parts import chat_logprobs, delta, message, text_logprobs


def usage(ends: Sequence[End], choices_per_prompt: int) -> Object:
    """OpenAI's usage. The prompt of several choices counts once."""
    first_choices = ends[::choices_per_prompt]
    prompt_tokens = sum(end.prompt_tokens for end in first_choices)
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in first_choices)},
        "completion_tokens_details": {"reasoning_tokens": sum(end.reasoning_tokens for end in ends)},
    }


@dataclass(slots=True, frozen=True)
class Head:
    """What every object and chunk of one answer repeats. created: Unix seconds."""

    id: str
    model: str
    created: int
    is_chat: bool
    choices_per_prompt: int = 1
    calls: CallStyle = FUNCTION_CALLS

    def fields(self, kind: str) -> Object:
        """The leading fields; kind: OpenAI's `object`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }


def likeliest(ends: Sequence[End], made: int, wanted: int, *, echo: bool = False) -> list[End]:
    """Of so many answers that were made to each prompt those whose tokens are the likeliest on average, in order.
    echo: they begin with their prompt, which does not count."""

    def mean(end: End) -> float:
        entries = end.rest.logprobs[end.prompt_tokens if echo else 0 :]
        return sum(entry.logprob for entry in entries) / len(entries) if entries else -inf

    return [
        end
        for first in range(0, len(ends), made)
        for end in sorted(ends[first : first + made], key=mean, reverse=True)[:wanted]
    ]


def whole(head: Head, ends: Sequence[End], made: Sequence[End] | None = None) -> Object:
    """The response of a request that is not streamed. made: all answers that it took, if they are more."""
    kind = "chat.completion" if head.is_chat else "text_completion"
    choices = [
        {"index": index, **_content(head, end.rest), "finish_reason": head.calls.finish_reason(end.finish_reason)}
        for index, end in enumerate(ends)
    ]
    return {**head.fields(kind), "choices": choices, "usage": usage(made or ends, head.choices_per_prompt)}


def _content(head: Head, answer: Delta) -> Object:
    if head.is_chat:
        return {"message": message(answer, head.calls), "logprobs": chat_logprobs(answer.logprobs)}
    return {"text": answer.text, "logprobs": text_logprobs(answer.logprobs, 0)}


class Chunks:
    """The Renderer of one streamed answer. All of a chunk but its text is prepared once per stream; chunks with more
    than text are made one by one."""

    content_type = STREAM_TYPE

    def __init__(self, head: Head, choices: int, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self._ends: dict[int, End] = {}
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
        # Per choice: tool calls begun so far, and characters of the tokens whose logprobs have been written.
        self._calls: dict[int, CallWriter] = {}
        self._offsets = [0] * choices
        self._usage_start = b'data: %b,"choices":[],"usage":' % fields

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended; `render` has then written the end of the stream."""
        return len(self._ends) == self._choices

    def render(self, items: Sequence[tuple[int, Delta | End]]) -> bytes:
        """(choice, output) of all that waits, in order, as chunks: one for the text of each choice."""
        if len(items) == 1:
            index, output = items[0]
            if type(output) is Delta:  # nearly always, and then nearly always text alone
                if output.reasoning or output.tool_calls or output.logprobs:
                    return self._piece(index, output)
                return self._text(index, output.text)
        pieces, ends = by_choice(items)
        self._ends |= ends
        chunks = [self._piece(index, piece) for index, piece in pieces.items()]
        chunks += [self._finish(index) for index in ends]
        if self.is_complete:
            chunks.append(self._last())
        return b"".join(chunks)

    def keepalive(self) -> bytes:
        """A comment."""
        return KEEPALIVE

    def error(self, failure: Failure) -> bytes:
        """The error object, and the end."""
        return framed_error(failure)

    def _is_silent(self, index: int) -> bool:
        """Nothing of this choice has been written: its first chunk also names the role."""
        return self._before[index] is not self._before_later[index]

    def _piece(self, index: int, piece: Delta) -> bytes:
        """Empty if a client would see nothing of it."""
        if not piece.has_more:
            return self._text(index, piece.text) if piece.text or self._is_silent(index) else b""
        if self._head.is_chat:
            role = {"role": "assistant"} if self._is_silent(index) else {}
            if index not in self._calls:
                self._calls[index] = CallWriter(self._head.calls)
            content = b'"delta":' + orjson.dumps({**role, **delta(piece, self._calls[index])})
            logprobs = chat_logprobs(piece.logprobs)
        else:
            content = b'"text":' + orjson.dumps(piece.text)
            logprobs = text_logprobs(piece.logprobs, self._offsets[index])
        self._before[index] = self._before_later[index]
        self._offsets[index] += sum(len(entry.token) for entry in piece.logprobs)
        rest = b',"logprobs":' + orjson.dumps(logprobs) + b',"finish_reason":null' + self._end
        return self._starts[index] + content + rest

    def _text(self, index: int, text: str) -> bytes:
        before = self._before[index]
        self._before[index] = self._before_later[index]
        return before + orjson.dumps(text) + self._after

    def _finish(self, index: int) -> bytes:
        reason = orjson.dumps(self._head.calls.finish_reason(self._ends[index].finish_reason))
        return self._before_finish[index] + b',"logprobs":null,"finish_reason":' + reason + self._end

    def _last(self) -> bytes:
        if not self._include_usage:
            return DONE
        ends = [self._ends[index] for index in range(self._choices)]
        return self._usage_start + orjson.dumps(usage(ends, self._head.choices_per_prompt)) + b"}\n\n" + DONE
