"""One request in the batch: a token in, the output that its client may have by now out. Knows no batch."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx

from broker.wire.failure import Code, Failure, FailureError, named_line
from broker.wire.outputs import FINAL, PARTIAL, Output, error_output
from broker.wire.work import MAX_TOLD_LOGPROBS
from worker.begun import TELL_EVERY, Begun, cannot_go_on, characters_of, check_characters
from worker.generation.answer import Answer, EitherAnswer, Parts
from worker.generation.calls.pieces import joined_calls
from worker.generation.constraints.constraint import Constraint
from worker.generation.echo import Echo
from worker.generation.logprobs import TokenTexts, token_logprobs
from worker.generation.text_stream import TextStream
from worker.process.device_errors import is_device_error
from worker.process.log_events import concerning

log = logging.getLogger("worker")

# Of a token whose log-probabilities another process has sent.
_KNOWN: dict[str, Any] = {}


class Sequence:
    """The state of one request. Mutable: its text, the parts not sent yet, the count of its tokens, and those that no
    output has told, where they are to be told; for logprobs also the length of the text so far, and the entries whose
    text is held back, each with the offset of its token in the text."""

    __slots__ = (
        *("request_id", "_text", "_answer", "_constraint", "_stream", "_logprobs", "_texts", "_parts"),
        *("_prompt_tokens", "_cached_tokens", "_completion_tokens", "_length", "_waiting", "_review", "_sent"),
        *("_room", "_reasoning_tokens", "_is_reasoning", "_echo", "_recited", "_untold"),
    )

    def __init__(
        self,
        request_id: bytes,
        text: TextStream,
        answer: Answer | EitherAnswer | None,
        constraint: Constraint | None,
        *,
        stream: bool,
        tells: bool = False,
        prompt_tokens: int,
        cached_tokens: int,
        logprobs: int | None,
        texts: TokenTexts,
        room: int | None = None,
        echo: Echo | None = None,
        ignored: Iterable[str] = (),
    ) -> None:
        """answer: None if all is text. tells: whether outputs tell their tokens. logprobs: alternatives for each token,
        None for no logprobs. room: tokens after which the context is full, None if the client wants no more than those.
        echo: how the answer begins. ignored: parts of the request that the answer does without; the first output names
        them."""
        self.request_id = request_id
        self._text = text
        self._answer = answer
        self._constraint = constraint
        self._stream = stream
        self._logprobs = logprobs
        self._texts = texts
        enforces_less = constraint.ignored if constraint is not None else []
        self._untold: list[int] | None = [] if tells else None
        self._parts = Parts(
            ignored=[*dict.fromkeys([*ignored, *enforces_less])],
            prompt={"tokens": prompt_tokens, "cached": cached_tokens} if stream else None,
        )
        self._review = constraint.review if constraint is not None else None
        self._sent: list[dict[str, Any]] = []  # for the review
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._completion_tokens = self._reasoning_tokens = 0
        self._room = room
        self._is_reasoning = answer is not None and answer.is_reasoning
        self._length = 0
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self._echo = echo
        self._recited = 0  # tokens of the prompt that have been drawn
        if echo is not None:
            if echo.recited:
                self._parts.logprobs.append({**texts.entry(echo.recited[0], 0.0), "logprob": math.nan, "top": []})
            if not echo.drawn:
                self._parts.text.append(echo.text)

    def advance(self, token: int, row: mx.array | None, reason: str | None) -> Output | None:
        """Take one token. row: its log-probabilities (vocabulary,), read only if asked for, else it may be None.
        reason: why the batch has ended the sequence; `stop`: the token is end-of-text and is not text."""
        try:
            return self._advance(token, row, reason)
        except FailureError as error:
            return error_output(self.request_id, error.failure)
        except Exception as error:
            if is_device_error(error):
                raise
            log.exception("a request fails while its text is decoded", extra={"about": self.request_id})
            failure = Failure(Code.INTERNAL_ERROR, f"cannot turn tokens into text: {named_line(error)}")
            return error_output(self.request_id, failure)

    def _advance(self, token: int, row: mx.array | None, reason: str | None) -> Output | None:
        if self._echo is not None and self._recited < self._echo.drawn:
            return self._recite(self._echo, token, row, reason)
        if self._echo is not None and self._echo.is_all:
            return self._end("length")
        if self._constraint is not None:
            self._constraint.check()
        self._completion_tokens += 1
        parts, stream = self._parts, self._text
        text = ""
        is_text = reason != "stop"
        untold = self._untold
        if is_text:
            if untold is not None:
                untold.append(token)
            if self._logprobs is not None:
                entry = _KNOWN if row is None else token_logprobs(row, token, self._logprobs, self._texts)
                self._waiting.append((self._length + stream.held, entry))
            text = stream.push(token)
        if reason is not None:
            text += stream.finish()
        if self._logprobs is not None:
            self._length += len(text)
            parts.logprobs += self._certain_logprobs(is_whole=reason is not None and stream.stop_string is None)
        if stream.stop_string is not None:
            reason = "stop"
        answer = self._answer
        if answer is not None:
            answer.push(text, parts)
            was_reasoning, self._is_reasoning = self._is_reasoning, answer.is_reasoning
            if was_reasoning and self._is_reasoning and is_text:  # so tags count as little as the end of the text
                self._reasoning_tokens += 1
            if answer.is_over:
                reason = "stop"
            if reason is not None:
                answer.finish(parts)
        elif text:
            is_plain = not (parts.ignored or parts.prompt or self._review)
            if reason is None and self._stream and self._logprobs is None and is_plain:
                if untold is None:
                    return Output(self.request_id, PARTIAL, {"text": text})
                if len(untold) == 1:
                    untold.clear()
                    return Output(self.request_id, PARTIAL, {"text": text, "ids": token})
                self._untold = []
                return Output(self.request_id, PARTIAL, {"text": text, "ids": untold})
            parts.text.append(text)
        if reason is not None:
            return self._end(reason)
        if self._stream and (parts.text or parts.reasoning or parts.tool_calls):
            self._parts = Parts()
            body = parts.body()
            if self._review is not None:
                self._sent.append(body)
            return Output(self.request_id, PARTIAL, self._told(body))
        return None if untold is None else self._without_words(untold)

    def _without_words(self, untold: list[int]) -> Output | None:
        """What is told where a client gets nothing now."""
        if self._stream:
            # What it says may come much later, such as a whole call. That its prompt has been read is told at once.
            is_first = self._completion_tokens == 1 and not self._recited
            return Output(self.request_id, PARTIAL, {"text": ""}) if is_first else None
        is_first = len(untold) == self._completion_tokens
        # The next process has no entry for a known token.
        if untold and not self._waiting and (is_first or len(untold) >= TELL_EVERY):
            return Output(self.request_id, PARTIAL, self._progress(is_first=is_first))
        return None

    def _told(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a PARTIAL with its tokens, if they are to be told. It has all log-probabilities before it, too:
        text that is released ends with that of the newest token."""
        if self._untold is not None:
            body["ids"] = self._untold[0] if len(self._untold) == 1 else self._untold
            self._untold = []
        return body

    def _progress(self, *, is_first: bool) -> dict[str, Any]:
        """The body of a PARTIAL of an answer that is not streamed: tokens, and their log-probabilities, which the FINAL
        then has no more. There is a bound for these, and from there on nothing is told."""
        body: dict[str, Any] = {"text": ""}
        if is_first:
            body["prompt"] = {"tokens": self._prompt_tokens, "cached": self._cached_tokens}
        if self._logprobs is not None:
            entries = (self._recited + self._completion_tokens) * (1 + self._logprobs)
            entries += self._echo is not None and bool(self._echo.recited)  # a prompt's first, which has no others
            if entries > MAX_TOLD_LOGPROBS:
                self._untold = None
                return body
            body["logprobs"], self._parts.logprobs = self._parts.logprobs, []
        return self._told(body)

    def follow(self, constraint: Constraint | None) -> None:
        """The answer leaves the batch and comes back with this constraint, which has caught up."""
        self._constraint = constraint

    def go_on(self, begun: Begun) -> None:
        """Take the tokens that the answer has from another process, and drop what that has sent. Raises FailureError
        where this is not what they say."""
        echo, said = self._echo, 0
        if echo is not None and echo.drawn:
            self._recited = echo.drawn
            if self._stream:
                self._parts, said = Parts(), len(echo.text)
            else:
                self._parts.text.append(echo.text)
        outputs = (self._advance(token, None, None) for token in begun.ids)
        said += characters_of([output for output in outputs if output is not None])
        if self._untold or self._waiting:
            raise cannot_go_on("its tokens end where no output has ended")
        check_characters(begun, said)

    def _recite(self, echo: Echo, token: int, row: mx.array | None, reason: str | None) -> Output | None:
        """Take a token of the prompt. What a client may have of it comes in one piece."""
        assert row is not None
        assert self._logprobs is not None
        self._parts.logprobs.append(token_logprobs(row, token, self._logprobs, self._texts))
        self._recited += 1
        if self._recited < echo.drawn and reason is None:
            return None
        self._parts.text.append(echo.text)
        if reason is not None or echo.is_all:
            return self._end("length")
        if not self._stream:
            return None
        body = self._parts.body()
        self._parts = Parts()
        return Output(self.request_id, PARTIAL, self._told(body))

    def cut(self) -> Output:
        """End it after the tokens that have come, as `length`."""
        parts, text = self._parts, self._text.finish()
        if self._logprobs is not None:
            self._length += len(text)
            parts.logprobs += self._certain_logprobs(is_whole=True)
        if self._answer is not None:
            self._answer.push(text, parts)
            self._answer.finish(parts)
        elif text:
            parts.text.append(text)
        return self._end("length", is_cut=True)

    def _certain_logprobs(self, *, is_whole: bool) -> Iterator[dict[str, Any]]:
        """The entries of tokens whose text is certain; all of them once the text is whole. Entries of text that a stop
        string cuts off are never sent."""
        while self._waiting and (is_whole or self._waiting[0][0] < self._length):
            yield self._waiting.popleft()[1]

    def _end(self, reason: str, *, is_cut: bool = False) -> Output:
        if reason == "stop" and self._answer is not None and self._answer.has_called:
            reason = "tool_calls"
        rest = self._parts.body()
        if self._review is not None and reason != "length":
            sent = [*self._sent, rest]
            calls = joined_calls([call for body in sent for call in body.get("tool_calls", ())])
            with concerning(self.request_id):
                self._review("".join(body["text"] for body in sent), calls)
        body: dict[str, Any] = {
            **rest,
            "finish_reason": reason,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "cached_tokens": self._cached_tokens,
        }
        if self._text.stop_string is not None:
            body["stop_string"] = self._text.stop_string
        if reason == "length" and not is_cut and self._completion_tokens == self._room:
            body["context_full"] = True
        if self._reasoning_tokens:
            body["reasoning_tokens"] = self._reasoning_tokens
        return Output(self.request_id, FINAL, body)
