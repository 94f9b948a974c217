"""Answers that must follow a JSON schema or a grammar: llguidance says which tokens may come next.

A constraint is a logits processor of its own request inside the batch. It has to know each token before the next one
is computed, so while there is one, a step begins only when the step before has ended.
"""

import json
from typing import Any

import llguidance
import llguidance.hf
import mlx.core as mx

from broker.wire.failure import invalid, one_line
from broker.wire.work import Generate
from worker.generation.reasoning import Thoughts
from worker.generation.tools import call_schema

# Enough to indent with. Without a limit a weak model goes on with blanks until its tokens are used up.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n\t]{0,16}"}


class Constraints:
    """Makes the constraints of one model's requests."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        # Made when it is needed first: it takes about a second for a large vocabulary.
        self._guide: llguidance.LLTokenizer | None = None

    def processor(self, request: Generate, thoughts: Thoughts) -> "Constraint | None":
        """None for a request without. thoughts: they are free. Raises FailureError."""
        if request.required_tools:
            schema = call_schema(request.tools, request.required_tools, one_call=request.one_call)
            grammar = _json_grammar(schema, "tools")
            param = "tools"
        elif request.json_schema is not None:
            grammar = _json_grammar(request.json_schema, "response_format")
            param = "response_format"
        elif request.grammar is not None:
            grammar = llguidance.LLMatcher.grammar_from_lark(request.grammar)
            param = "grammar"
        else:
            return None
        matcher = llguidance.LLMatcher(self._load_guide(), grammar)
        if matcher.is_error():
            raise invalid(f"{param}: {one_line(matcher.get_error())}", param=param)
        return Constraint(matcher, sorted(self._tokenizer.eos_token_ids), thoughts, param)

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


class Constraint:
    """A logits processor for one sequence: makes impossible what the grammar does not allow, thoughts before it apart,
    which may say anything but not end the text.

    Mutable state: of each way to open thoughts what has still to come, nothing once that is decided, and whether the
    grammar allows what has come of it; whether thoughts are open, their last tokens, and, once that is needed, which
    tokens may be among them.
    """

    def __init__(self, matcher: llguidance.LLMatcher, eos: list[int], thoughts: Thoughts, param: str) -> None:
        """param: the request's field that asks for it."""
        self._param = param
        self._matcher = matcher
        self._eos = eos
        self._openings = list(thoughts.openings)
        self._is_thinking = thoughts.are_open
        self._end = thoughts.end
        self._thought: tuple[int, ...] = ()
        self._goes_on: mx.array | None = None
        self._follows = True
        self._is_first = True

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._is_first:  # `tokens` is the prompt
            self._is_first = False
        else:
            last: Any = tokens[-1].item()
            if last not in self._eos:  # which ends the sequence: nobody need know
                self._take(last)
        width = logits.shape[-1]
        allowed = self._thinkable(width) if self._is_thinking else self._allowed(width)
        return mx.where(allowed, logits, -mx.inf)

    def check(self) -> None:
        """Raises FailureError once the grammar has grown over llguidance's limits: a step that raises would end the
        whole batch, so there only the end of the text is left possible."""
        if self._matcher.is_error():
            reason = one_line(self._matcher.get_error().partition("\n")[0])
            raise invalid(f"{self._param}: the answer cannot follow it any further: {reason}", param=self._param)

    def _take(self, token: int) -> None:
        if self._is_thinking:
            self._thought = (*self._thought, token)[-len(self._end) :]
            self._is_thinking = self._thought != self._end
            return
        self._openings = [rest[1:] for rest in self._openings if rest[0] == token]
        if () in self._openings:
            self._openings = []
            self._is_thinking = True
            self._matcher.reset()  # it may have taken blanks
        elif self._openings:
            self._follows = self._follows and self._matcher.try_consume_tokens([token]) == 1
        else:
            self._matcher.consume_token(token)

    def _thinkable(self, width: int) -> mx.array:
        """Anything but the end of the text: the answer has still to come."""
        if self._goes_on is None:
            self._goes_on = mx.logical_not(_among(self._eos, width))
        return self._goes_on

    def _allowed(self, width: int) -> mx.array:
        if not self._openings:
            return self._following(width)
        openings = _among([rest[0] for rest in self._openings], width)
        return mx.logical_or(openings, self._following(width)) if self._follows else openings

    def _following(self, width: int) -> mx.array:
        if self._matcher.is_stopped():
            # Nothing may follow, or the matcher has given up.
            return _among(self._eos, width)
        flags: Any = memoryview(self._matcher.compute_logit_bias())  # a byte per token
        bias = mx.array(flags) > 0
        return mx.pad(bias, (0, width - bias.size)) if bias.size < width else bias[:width]


def _among(tokens: list[int], width: int) -> mx.array:
    """Which ids below `width` are among these tokens."""
    ids: Any = mx.arange(width)
    among: mx.array = (ids[:, None] == mx.array(tokens)).any(axis=1)
    return among


def _json_grammar(schema: dict[str, Any], param: str) -> str:
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_JSON_OPTIONS)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{param}: {one_line(error)}", param=param) from error
