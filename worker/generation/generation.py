"""What a Generate request means for one model, whichever library computes: sampling, length, the format and constraint
of the answer, and the way from tokens to outputs. Knows no batch and no weights.
"""

from collections.abc import Iterable
from typing import Any

from broker.wire.failure import Code, Failure, FailureError, invalid
from broker.wire.work import Generate
from worker.begun import Begun
from worker.generation.answer import Answer, AnswerFormat, EitherAnswer
from worker.generation.budget import ThinkingBudget
from worker.generation.constraints.constraint import Constraint, Constraints
from worker.generation.echo import Echo
from worker.generation.infill import infill_ends
from worker.generation.logprobs import TokenTexts
from worker.generation.prompt import prompt_characters
from worker.generation.reasoning import NO_REASONING, ReasoningFormat
from worker.generation.sampling import Follower, LogitsProcessor, Sampler, request_processors, request_sampler
from worker.generation.sequence import Sequence
from worker.generation.text_stream import TextStream, make_detokenizer
from worker.generation.tools import call_ids

# The default of max_tokens for a model that does not state the length of its context.
_DEFAULT_MAX_TOKENS = 4096

# Characters that a prompt may have to be counted, even if the context is smaller.
_COUNTABLE = 2**22


class Generation:
    """For all requests of one model. context: tokens, 0 if unknown."""

    def __init__(self, tokenizer: Any, vocabulary: int, context: int) -> None:
        """tokenizer: mlx-lm's TokenizerWrapper."""
        self.context = context
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._reasoning = ReasoningFormat(tokenizer)
        self._format = AnswerFormat(tokenizer)
        self._generic_format = AnswerFormat(tokenizer, generic=True)
        self._constraints = Constraints(tokenizer, vocabulary)
        self._texts = TokenTexts(tokenizer)
        # As in mlx_lm.server: XTC must not remove the end of a line or of the text.
        self._kept_by_xtc = (*tokenizer.encode("\n"), *sorted(tokenizer.eos_token_ids))
        # No prompt can have more characters per token. A prompt that must be too long is refused before it is
        # tokenised: tokenising millions of characters would stall the model's other requests for many seconds.
        self._longest_token = max(map(len, tokenizer.get_vocab()))

    def sampling(self, request: Generate, said: int = 0) -> tuple[Sampler, list[LogitsProcessor]]:
        """Its sampler, and the processors that change the logits before. said: tokens that the answer has already.
        Raises FailureError."""
        sampler = request_sampler(request, self._vocabulary, self._kept_by_xtc, drawn=said)
        return sampler, request_processors(request, self._vocabulary)

    def check_characters(self, request: Generate, *, counts: bool = False) -> None:
        """Raises FailureError for a prompt that must be too long, without tokenising it. counts: to be counted only."""
        size = prompt_characters(request)
        if request.messages is None and isinstance(request.prompt, list):
            if not counts:
                self._check_tokens(request, size)
            return
        most = self.context * self._longest_token
        if self.context and size > (max(most, _COUNTABLE) if counts else most):
            raise self._too_long(request, f"{size} characters")

    def check_max_tokens(self, request: Generate) -> None:
        """Raises FailureError. An answer that is nothing but its prompt has no tokens."""
        least = 0 if request.echo else 1
        if request.max_tokens is not None and request.max_tokens < least:
            raise invalid(f"max_tokens must be at least {least}, not {request.max_tokens}", param="max_tokens")

    def echo(self, request: Generate, prompt: list[int]) -> Echo | None:
        """How the answer begins with its prompt; None if it does not. Raises FailureError."""
        if not request.echo:
            return None
        if request.messages is not None:
            raise invalid("echo: a chat has no text to begin with", param="echo")
        text = request.prompt if isinstance(request.prompt, str) else self._tokenizer.decode(prompt)
        recited = [] if request.logprobs is None else prompt
        if recited and request.suffix:
            raise invalid("echo: with a suffix the prompt has no logprobs", param="echo")
        if not self._tokenizer.eos_token_ids.isdisjoint(recited[1:]):
            raise invalid("echo: a prompt with the end of a text inside has no logprobs", param="echo")
        return Echo(text, recited, is_all=request.max_tokens == 0)

    def max_tokens(self, request: Generate, prompt: int) -> int:
        """How many tokens may follow a prompt of `prompt` tokens: as asked, limited by the context."""
        self.check_max_tokens(request)
        asked = request.max_tokens
        self._check_tokens(request, prompt)
        if not self.context:
            return _DEFAULT_MAX_TOKENS if asked is None else asked
        return min(self.context if asked is None else asked, self.context - prompt)

    def answer(
        self, request: Generate, tokens: list[int], *, is_generic: bool = False
    ) -> tuple[Answer | EitherAnswer | None, Constraint | None]:
        """The format of the answer to these tokens, None for plain text, and its constraint. is_generic: the prompt has
        tools in the generic form. Raises FailureError."""
        ids = call_ids(request.key)
        if request.messages is None:
            return None, self._constraints.processor(request, NO_REASONING)
        answers = self._generic_format if is_generic else self._format
        reasoning = self._reasoning.after(tokens)
        may_call = bool(request.tools) and not request.required_tools
        calls = answers.call_openings if may_call else ()
        # Of the grammars that an answer may have to follow, only schemas can be joined with that of a call.
        is_bare = may_call and answers.has_bare_calls and request.json_schema is not None
        constraint = self._constraints.processor(request, reasoning, calls, has_bare_calls=is_bare, form=answers.calls)
        if constraint is None or constraint.is_free:
            binds_calls = constraint is not None and constraint.is_bound
            in_pieces = request.stream and binds_calls and answers.has_object_calls
            answer = answers.answer(reasoning, request.tools, one_call=request.one_call, in_pieces=in_pieces, ids=ids)
            return answer, constraint
        if calls or is_bare:
            return answers.either(reasoning, request.tools, one_call=request.one_call, ids=ids), constraint
        is_call = bool(request.required_tools)
        return answers.constrained(reasoning, is_call=is_call, in_pieces=request.stream, ids=ids), constraint

    def followers(
        self,
        request: Generate,
        answer: Answer | EitherAnswer | None,
        constraint: Constraint | None,
        said: list[int] | None = None,
    ) -> list[LogitsProcessor]:
        """The processors that follow this answer token by token. said: the tokens that it has already. Raises
        FailureError."""
        followers: list[Follower] = [constraint] if constraint is not None and constraint.is_bound else []
        budget = request.thinking_budget
        if budget is not None and budget < 0:
            raise invalid(f"thinking_budget must be at least 0, not {budget}", param="thinking_budget")
        if budget is not None and answer is not None and self._reasoning.end:
            split, detokenizer = answer.reasoning_split(), make_detokenizer(self._tokenizer)
            followers.append(ThinkingBudget(budget, self._reasoning.end, split, detokenizer))  # has the last word
        for follower in followers:
            follower.catch_up(said or [])
        return [*followers]

    def _unheeded(self, request: Generate, answer: Answer | EitherAnswer | None) -> list[str]:
        """Fields of the request that change nothing with this model."""
        is_bounded = request.thinking_budget is None or (answer is not None and bool(self._reasoning.end))
        return [] if is_bounded else ["thinking_budget"]

    def sequence(
        self,
        request_id: bytes,
        request: Generate,
        answer: Answer | EitherAnswer | None,
        constraint: Constraint | None,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        echo: Echo | None = None,
        ignored: Iterable[str] = (),
        begun: Begun | None = None,
    ) -> Sequence:
        """The state of the request while it is in the batch. ignored: parts of it that the prompt does without; begun:
        what its answer has already. Raises FailureError."""
        room = self.context - prompt_tokens if self.context else None
        if room is not None and request.max_tokens is not None and request.max_tokens <= room:
            room = None
        stops = [*request.stop, *infill_ends(self._tokenizer)] if request.suffix else request.stop
        sequence = Sequence(
            request_id,
            TextStream(make_detokenizer(self._tokenizer, continues=request.messages is None), stops),
            answer,
            constraint,
            stream=request.stream,
            tells=request.tells_tokens,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens if begun is None else begun.cached,
            logprobs=request.logprobs,
            texts=self._texts,
            room=room,
            echo=echo,
            ignored=[*ignored, *self._unheeded(request, answer)],
        )
        if begun is not None:
            sequence.go_on(begun)
        return sequence

    def _check_tokens(self, request: Generate, prompt: int) -> None:
        if self.context and prompt >= self.context:
            raise self._too_long(request, f"{prompt} tokens")

    def _too_long(self, request: Generate, size: str) -> FailureError:
        why = f"the prompt has {size}, and the model's context of {self.context} tokens leaves no room for an answer"
        param = "prompt" if request.messages is None else "messages"
        return FailureError(Failure(Code.CONTEXT_LENGTH_EXCEEDED, why, param))
