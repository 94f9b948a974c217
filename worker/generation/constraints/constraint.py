"""Answers that must follow a JSON schema or a grammar: which tokens may come next.

A constraint is a logits processor of one request inside the batch. It must know each token before the next one is
computed, so while a batch has one, every step waits for the step before.
"""

from typing import Any

import llguidance
import llguidance.hf
import mlx.core as mx

from broker.wire.failure import FailureError, invalid, one_line
from broker.wire.work import Generate
from worker.generation.calls.formats import CallFormat
from worker.generation.constraints.bare_calls import BareCalls
from worker.generation.constraints.enforce import (
    Enforced,
    calls_matcher,
    text_grammar_matcher,
    text_matcher,
    wanted_calls,
    wanted_schema,
)
from worker.generation.constraints.free_calls import FreeCalls, free_calls, wants_bound_calls, wished_fields
from worker.generation.constraints.native import failure_of
from worker.generation.constraints.review import Review, both, review_of_calls, review_of_text
from worker.generation.constraints.vocabulary import Vocabulary, among, following
from worker.generation.reasoning import NO_REASONING, Reasoning
from worker.generation.sampling import Follower


class Constraints:
    """Makes the constraints of one model's requests."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        # Made on first use: that takes about a second for a large vocabulary.
        self._guide: llguidance.LLTokenizer | None = None
        self._words: Vocabulary | None = None

    def processor(
        self,
        request: Generate,
        reasoning: Reasoning,
        calls: tuple[tuple[int, ...], ...] = (),
        *,
        has_bare_calls: bool = False,
        form: CallFormat | None = None,
    ) -> "Constraint | None":
        """None for a request without a constraint. reasoning: is not constrained. calls: the tokens, one way or the
        other, with which the answer becomes tool calls instead. has_bare_calls: the model's calls are JSON that nothing
        marks. form: of its calls. Raises FailureError."""
        eos = sorted(self._tokenizer.eos_token_ids)
        if request.required_tools:
            wanted = wanted_calls(request)
            matcher, wanted = calls_matcher(self._load_guide(), wanted, one_call=request.one_call)
            ignored = [name for one in wanted.values() for name in one.names]
            return Constraint(matcher, eos, reasoning, "tools", ignored=ignored, review=review_of_calls(wanted))
        # What no mark announces can be called only where the grammar itself has it.
        uncalled = ["tools"] if request.tools and not calls else []
        is_bare = form is not None and bool(form.openings) and request.json_schema is None and request.grammar is None
        free, enforced, unbound = self._free_calls(request, form if calls or is_bare else None, eos)
        if (schema := wanted_schema(request)) is not None:
            names = [tool["function"]["name"] for tool in request.tools] if has_bare_calls else []
            matcher, schema = text_matcher(self._load_guide(), schema, names)
            ignored = [*([] if names else uncalled), *schema.names, *unbound]
            review = both(review_of_text(schema), review_of_calls(enforced))
            return Constraint(matcher, eos, reasoning, "json_schema", calls, free=free, ignored=ignored, review=review)
        review = review_of_calls(enforced)
        if request.grammar is not None:
            matcher = text_grammar_matcher(self._load_guide(), request.grammar)
            ignored = [*uncalled, *unbound]
            return Constraint(matcher, eos, reasoning, "grammar", calls, free=free, ignored=ignored, review=review)
        if free is None and not unbound:
            return None
        return Constraint(None, eos, NO_REASONING, "tools", free=free, ignored=unbound, review=review)

    def _free_calls(
        self, request: Generate, form: CallFormat | None, eos: list[int]
    ) -> tuple[FreeCalls | BareCalls | None, dict[str, Enforced], list[str]]:
        """As free_calls.py has it; nothing is made for a request without such tools."""
        if not wants_bound_calls(request):
            return None, {}, []
        guide = self._guide_or_none()
        if form is None or guide is None:
            return None, {}, wished_fields(request)
        if self._words is None:
            self._words = Vocabulary(guide)
        return free_calls(request, form, guide, self._words, eos)

    def _guide_or_none(self) -> llguidance.LLTokenizer | None:
        try:
            return self._load_guide()
        except FailureError:
            return None

    def _load_guide(self) -> llguidance.LLTokenizer:
        if self._guide is None:
            tokenizer = self._tokenizer._tokenizer  # noqa: SLF001 # the one that mlx-lm wraps
            size = max(self._vocabulary, len(tokenizer))
            eos = sorted(self._tokenizer.eos_token_ids)
            try:
                self._guide = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=eos)
            except ValueError as error:
                raise invalid(f"this model's tokenizer cannot be constrained: {one_line(error)}") from error
        return self._guide


class Constraint(Follower):
    """A logits processor for one sequence: excludes all tokens that the grammar does not allow. Reasoning before the
    answer is not constrained, but it may not end the text. Nor are tool calls in place of the answer, unless `free`
    binds them.

    ignored: parts of the request that are not enforced; review: checks the whole answer instead.

    Mutable state: the rest of each possible opening of reasoning or of calls, and of what leads to the answer, empty
    once that is decided, and whether the grammar allows the tokens so far too; whether the reasoning is open, its last
    tokens, and its allowed tokens; whether calls have begun.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher | None,
        eos: list[int],
        reasoning: Reasoning,
        param: str,
        calls: tuple[tuple[int, ...], ...] = (),
        *,
        free: FreeCalls | BareCalls | None = None,
        ignored: list[str] | None = None,
        review: Review | None = None,
    ) -> None:
        """matcher: None for free text, of which `free` binds the calls, or nothing. param: the field of the request
        that asks for it."""
        self.ignored = ignored or []
        self.review = review
        self._param = param
        self._text = matcher
        self._free = free
        self._eos = eos
        self._openings = list(reasoning.openings)
        self._lead = reasoning.lead
        self._leads: list[tuple[int, ...]] = []
        self._calls = calls
        self._call_openings = [] if self._lead else list(calls)
        self._is_reasoning = reasoning.is_open
        self._is_calling = matcher is None
        self._end = reasoning.end
        self._last: tuple[int, ...] = ()
        self._goes_on: mx.array | None = None
        self._follows = not self._lead
        self._is_first = True

    @property
    def is_bound(self) -> bool:
        """Whether it excludes anything."""
        return self._text is not None or self._free is not None

    @property
    def is_free(self) -> bool:
        """Whether the text may be anything, apart from its calls."""
        return self._text is None

    @property
    def _matcher(self) -> llguidance.LLMatcher:
        assert self._text is not None  # the text is not free
        return self._text

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._is_first:  # `tokens` is the prompt
            self._is_first = False
        else:
            last: Any = tokens[-1].item()
            if last not in self._eos:  # the sequence has ended anyway
                self._take(last)
        width = logits.shape[-1]
        if self._is_calling:
            allowed = None if self._free is None else self._free.allowed(width)
        else:
            allowed = self._unconstrained(width) if self._is_reasoning else self._allowed(width)
        return logits if allowed is None else mx.where(allowed, logits, -mx.inf)

    def catch_up(self, said: list[int]) -> None:
        """As Follower. The last of these tokens is taken when the next one is drawn, like any other."""
        if said:
            self._is_first = False
        for token in said[:-1]:
            self._take(token)

    def check(self) -> None:
        """Raises FailureError once the grammar has exceeded llguidance's limits. The step itself must not raise,
        because that would end the whole batch: there, only the end of the text stays possible."""
        if self._free is not None:
            self._free.check()
        if self._text is not None and self._text.is_error():
            raise failure_of(self._text, f"{self._param}: the answer cannot follow it any further", self._param)

    def _take(self, token: int) -> None:
        if self._is_calling:
            if self._free is not None:
                self._free.take(token)
            return
        if self._is_reasoning:
            self._last = (*self._last, token)[-len(self._end) :]
            if self._last == self._end:
                self._is_reasoning = False
                self._call_openings = list(self._calls)
                self._leads = [self._lead] if self._lead else []
                self._follows = not self._lead
            return
        self._openings = [rest[1:] for rest in self._openings if rest[0] == token]
        self._call_openings = [rest[1:] for rest in self._call_openings if rest[0] == token]
        self._leads = [rest[1:] for rest in self._leads if rest[0] == token]
        if () in self._openings:
            self._openings, self._call_openings = [], []
            self._is_reasoning = True
            self._follows = True
            self._matcher.reset()  # it may have consumed blanks
        elif () in self._call_openings:
            self._is_calling = True
            if self._free is not None:
                self._free.begin()
            self._matcher.reset()
        elif () in self._leads:
            self._call_openings, self._leads = [], []
            self._follows = True
        elif self._openings or self._call_openings or self._leads:
            self._follows = self._follows and self._matcher.try_consume_tokens([token]) == 1
        else:
            self._matcher.consume_token(token)

    def _unconstrained(self, width: int) -> mx.array:
        """Anything but the end of the text: the answer must still come."""
        if self._goes_on is None:
            self._goes_on = mx.logical_not(among(self._eos, width))
        return self._goes_on

    def _allowed(self, width: int) -> mx.array:
        begun = [*self._openings, *self._call_openings, *self._leads]
        if not begun:
            return following(self._matcher, self._eos, width)
        openings = among([rest[0] for rest in begun], width)
        return mx.logical_or(openings, following(self._matcher, self._eos, width)) if self._follows else openings
