"""The one place where llguidance reads what a client wrote: a schema or a grammar in, a matcher out.

Each is read in a thread with a stack that the bounds (bounds.py) cannot exhaust, and with limits for its automata.
"""

import json
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import llguidance

from broker.wire.failure import FailureError, invalid, one_line

T = TypeVar("T")

# Virtual memory, of which a thread takes what it needs. macOS gives other threads 512 kB.
_STACK_BYTES = 256 * 2**20

# Enough for indentation. Without a limit a weak model writes blanks until it has used up its tokens.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n\t]{0,16}"}

# Whatever `x-guidance` in a schema says: nothing is left out in silence.
_OVERRIDES: Any = {"lenient": False, "coerce_one_of": False}

# The work for the first token: nested repetitions take 0.1 s instead of many; an enumeration of 10,000 texts fits.
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=200_000)

_stack_lock = threading.Lock()


class UnreadableError(Exception):
    """llguidance refuses a schema or a grammar; the text says why."""


def schema_matcher(guide: llguidance.LLTokenizer, schema: dict[str, Any]) -> llguidance.LLMatcher:
    """Raises UnreadableError."""
    return _matcher(guide, _grammar_of(schema))


def grammar_matcher(guide: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """grammar: Lark. Raises UnreadableError."""
    return _matcher(guide, llguidance.LLMatcher.grammar_from_lark(grammar))


def check_readable(schema: dict[str, Any]) -> None:
    """Raises UnreadableError for a schema that no model could follow."""
    grammar = _grammar_of(schema)
    error = on_large_stack(lambda: llguidance.LLMatcher.validate_grammar(grammar, limits=_LIMITS))
    if error:
        raise UnreadableError(reason_of(error))


def check_grammar_readable(grammar: str) -> None:
    """Raises UnreadableError for Lark that is none."""
    lark = llguidance.LLMatcher.grammar_from_lark(grammar)
    error = on_large_stack(lambda: llguidance.LLMatcher.validate_grammar(lark, limits=_LIMITS))
    if error:
        raise UnreadableError(reason_of(error))


@lru_cache(maxsize=256)
def is_unreadable(keyword: str, value: str | float) -> bool:
    """Whether a text with this pattern or format, or a number with this bound, is refused."""
    try:
        check_readable({"type": "string" if isinstance(value, str) else "number", keyword: value})
    except UnreadableError:
        return True
    return False


def reason_of(error: str) -> str:
    """One line, without the names of llguidance's own options."""
    return one_line(error).split(" Enable '")[0]


def failure_of(matcher: llguidance.LLMatcher, why: str, field: str) -> FailureError:
    """For a matcher that has failed. why: what cannot go on."""
    reason = reason_of(matcher.get_error().partition("\n")[0])
    return invalid(f"{why}: {reason}", param=field)


def on_large_stack(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread of its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 # raised below
            errors.append(error)

    with _stack_lock:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="constraint")
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _grammar_of(schema: dict[str, Any]) -> str:
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), defaults=_JSON_OPTIONS, overrides=_OVERRIDES
        )
    except ValueError as error:
        raise UnreadableError(reason_of(str(error))) from error


def _matcher(guide: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    def make() -> llguidance.LLMatcher:
        matcher = llguidance.LLMatcher(guide, grammar, limits=_LIMITS)
        if not matcher.is_error():
            matcher.compute_logit_bias()  # the work for the first token is done here, not in a step of the batch
        return matcher

    matcher = on_large_stack(make)
    if matcher.is_error():
        raise UnreadableError(reason_of(matcher.get_error()))
    return matcher
