"""Answers that must follow a JSON schema or a grammar: llguidance says which tokens may come next.

A constraint is a logits processor of its own request inside the batch. It has to know each token before the next one
is computed, so while there is one, a step begins only when the step before has ended.
"""

import json
from typing import Any

import llguidance
import llguidance.hf
import mlx.core as mx

from broker.protocol import Generate
from worker.engine import RequestError
from worker.tools import call_schema

# Enough to indent with. Without a limit a weak model goes on with blanks until its tokens are used up.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n\t]{0,16}"}


class Constraints:
    """Makes the constraints of one model's requests."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        # Made when it is needed first: it takes about a second for a large vocabulary.
        self._guide: llguidance.LLTokenizer | None = None

    def processor(self, request: Generate, after: tuple[int, ...]) -> "Constraint | None":
        """None for a request without. after: the tokens that have to come before it holds. Raises RequestError."""
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
            raise RequestError(f"{param}: {_one_line(matcher.get_error())}", param=param)
        return Constraint(matcher, sorted(self._tokenizer.eos_token_ids), after, param)

    def _load_guide(self) -> llguidance.LLTokenizer:
        if self._guide is None:
            tokenizer = self._tokenizer._tokenizer  # noqa: SLF001 # the one that mlx-lm wraps
            size = max(self._vocabulary, len(tokenizer))
            eos = sorted(self._tokenizer.eos_token_ids)
            try:
                self._guide = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=eos)
            except ValueError as error:
                raise RequestError(f"this model's tokenizer cannot be constrained: {_one_line(str(error))}") from error
        return self._guide


class Constraint:
    """A logits processor for one sequence: makes impossible what the grammar does not allow."""

    def __init__(self, matcher: llguidance.LLMatcher, eos: list[int], after: tuple[int, ...], param: str) -> None:
        """param: the request's field that asks for it."""
        self._param = param
        self._matcher = matcher
        self._eos = eos
        self._after = list(after)
        self._before: list[int] = []
        self._is_first = True

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._is_first:  # `tokens` is the prompt
            self._is_first = False
        else:
            last: Any = tokens[-1].item()
            self._take(last)
        return logits if self._after else mx.where(self._allowed(logits.shape[-1]), logits, -mx.inf)

    def check(self) -> None:
        """Raises RequestError once the grammar has grown over llguidance's limits: a step that raises would end the
        whole batch, so there only the end of the text is left possible."""
        if self._matcher.is_error():
            reason = _one_line(self._matcher.get_error().partition("\n")[0])
            raise RequestError(f"{self._param}: the answer cannot follow it any further: {reason}", param=self._param)

    def _take(self, token: int) -> None:
        if not self._after:
            # An end-of-text token ends the sequence: the matcher need not know.
            if token not in self._eos:
                self._matcher.consume_token(token)
            return
        self._before = [*self._before, token][-len(self._after) :]
        if self._before == self._after:
            self._after = []

    def _allowed(self, width: int) -> mx.array:
        if self._matcher.is_stopped():
            # Nothing may follow, or the matcher has given up.
            ids: Any = mx.arange(width)
            allowed: mx.array = (ids[:, None] == mx.array(self._eos)).any(axis=1)
            return allowed
        flags: Any = memoryview(self._matcher.compute_logit_bias())  # a byte per token
        bias = mx.array(flags) > 0
        return mx.pad(bias, (0, width - bias.size)) if bias.size < width else bias[:width]


def _json_grammar(schema: dict[str, Any], param: str) -> str:
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_JSON_OPTIONS)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param}: {_one_line(str(error))}", param=param) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
