"""Calls that nothing marks (Llama 3): an answer that begins like a call is one, and follows a grammar from its
beginning. Any other answer is free.
"""

from typing import Any

import llguidance
import mlx.core as mx

from worker.generation.calls.formats import CallFormat
from worker.generation.constraints.bounds import Schema
from worker.generation.constraints.call_grammars import LARK_HEAD, BoundTool, json_rule
from worker.generation.constraints.calls import call_schema
from worker.generation.constraints.native import failure_of
from worker.generation.constraints.vocabulary import Vocabulary, among, following

_TAG = "<|python_tag|>"


def bare_grammar(tools: list[BoundTool], vocabulary: Vocabulary) -> str:
    """Lark, for a call in one of the ways that this form has."""
    tag = " ".join(vocabulary.literal(_TAG))
    return f"{LARK_HEAD}start: ({tag})? call\ncall: {json_rule(_schema(tools))}\n"


def _schema(tools: list[BoundTool]) -> Schema:
    """`{name, parameters}`, alone, beside a type, or inside a function beside a type."""
    plain = call_schema([(tool.name, tool.arguments) for tool in tools], one_call=True, arguments="parameters")
    kind: dict[str, Any] = {"type": {"const": "function"}}
    typed = [
        {**call, "properties": {**kind, **call["properties"]}, "required": ["type", *call["required"]]}
        for call in plain["anyOf"]
    ]
    inside = [
        {
            "type": "object",
            "properties": {**kind, "function": call},
            "required": ["type", "function"],
            "additionalProperties": False,
        }
        for call in plain["anyOf"]
    ]
    return {**plain, "anyOf": [*plain["anyOf"], *typed, *inside]}


class BareCalls:
    """Binds the call that an answer may be.

    Mutable state: the beginning of the answer without its blanks, as long as it may become a call, then None; whether
    it follows the grammar so far; whether it is a call.
    """

    def __init__(self, matcher: llguidance.LLMatcher, form: CallFormat, vocabulary: Vocabulary, eos: list[int]) -> None:
        self._openings = tuple(opening.encode() for opening in form.openings)
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._eos = eos
        self._begun: bytes | None = b""
        self._follows = True
        self._is_open = False

    def begin(self) -> None:
        """Nothing marks a call."""

    def take(self, token: int) -> None:
        """The next token of the answer."""
        if self._is_open:
            self._matcher.consume_token(token)
        elif self._begun is not None:
            self._begun += b"".join(self._vocabulary.text(token).split())
            self._follows = self._follows and self._matcher.try_consume_tokens([token]) == 1
            self._is_open = self._begun.startswith(self._openings)
            if self._is_open or not any(opening.startswith(self._begun) for opening in self._openings):
                self._begun = None

    def allowed(self, width: int) -> mx.array | None:
        """For each id below `width`, whether it may come next; None for all."""
        if self._is_open:
            return following(self._matcher, self._eos, width)
        if self._begun is None:
            return None
        begins = self._vocabulary.completing(self._openings, self._begun)
        if not begins:
            return None
        free = mx.logical_not(among(begins, width))
        return mx.logical_or(free, following(self._matcher, self._eos, width)) if self._follows else free

    def check(self) -> None:
        """Raises FailureError once the grammar has exceeded llguidance's limits."""
        if self._is_open and self._matcher.is_error():
            raise failure_of(self._matcher, "tools: a call cannot follow its grammar any further", "tools")
