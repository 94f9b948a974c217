"""Prompts that have been written: before their request is added, or for another choice of the same request."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from broker.wire.failure import FailureError
from broker.wire.work import Generate
from worker.ahead import LONG
from worker.generation.prompt import WrittenPrompt

# Prompts that are kept, and the bytes of their payloads; one is kept in any case.
_MOST = 16
_MOST_BYTES = 8 << 20


class _Known(NamedTuple):
    """request: without what does not concern its prompt. result: the prompt, or what is wrong with it."""

    payload: bytes
    request: Generate
    result: WrittenPrompt | FailureError


class WrittenPrompts:
    """Mutable state: the last long prompts, and those that were written ahead. Used by two threads, of which one at a
    time writes."""

    def __init__(self, write: Callable[[Generate], WrittenPrompt]) -> None:
        """write: raises FailureError."""
        self._write = write
        self._known: deque[_Known] = deque(maxlen=_MOST)

    def prompt(self, request: Generate, payload: bytes) -> WrittenPrompt:
        """Of this request, which is what the payload says. Raises FailureError."""
        known = next((one.result for one in tuple(self._known) if one.payload == payload), None)
        if known is None and len(payload) < LONG:
            return self._write(request)
        result = self._written(request, payload) if known is None else known
        if isinstance(result, FailureError):
            raise FailureError(result.failure)
        return result

    def write_ahead(self, request: Generate, payload: bytes) -> None:
        """So that `prompt` finds it."""
        self._written(request, payload)

    def clear(self) -> None:
        """Forget them. The next request of each is written again."""
        self._known.clear()

    def _written(self, request: Generate, payload: bytes) -> WrittenPrompt | FailureError:
        # Choices of one request differ in their seeds, and a request that goes on in what it has said.
        alike = replace(request, seed=None, key="", stream=False, tells_tokens=False, begun=None)
        result = next((one.result for one in tuple(self._known) if one.request == alike), None)
        if result is None:
            try:
                result = self._write(request)
            except FailureError as error:
                result = FailureError(error.failure)  # without the frames that raised it, and what they hold
        self._known.append(_Known(payload, alike, result))
        while len(self._known) > 1 and sum(len(one.payload) for one in tuple(self._known)) > _MOST_BYTES:
            self._known.popleft()
        return result
