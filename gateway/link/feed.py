"""The changes of all models for any number of listeners, by one WATCH of the broker.

Each change is rendered once. Steps of a load or a download that differ in nothing but how far it is come to listeners
a few times in a second at most, however fast a disk is: hundreds of pages that watch must not take time from tokens.
What a change of state overtakes is not told. A listener that reads too slowly is ended like any other call.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic

from broker.wire.failure import Code, Failure
from gateway.core.administration import StateChange
from gateway.core.ask import watch
from gateway.link.call import Call, T
from gateway.link.link import Link
from gateway.trace import current_trace

log = logging.getLogger(__name__)

STEP_SECONDS = 0.25

_LISTENER = b""  # a listener is one unit of work without an id on the wire
_BROKEN = Failure(Code.INTERNAL_ERROR, "the changes of models cannot be read")


class Feed(Generic[T]):
    """render: a change as listeners get it.

    Mutable state: the listeners, each with the model that it wants, None for all; the WATCH and the task that reads it,
    while there are listeners; of each model the last change, when it was told, and the timer that tells it if it was
    not.
    """

    def __init__(self, link: Link, render: Callable[[StateChange], T]) -> None:
        self._link = link
        self._render = render
        self._listeners: dict[Call[T], str | None] = {}
        self._watching: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._last: dict[str, tuple[StateChange, T]] = {}
        self._told_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def listen(self, model: str | None) -> Call[T]:
        """A call that brings the present states, then every change, of this model or of all; it ends with the broker.
        Raises FailureError if that is not there."""
        async with self._starting:
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch(await self._link.call(watch(None))))
        call: Call[T] = Call(1, self._leave, current_trace())
        call.pending[_LISTENER] = 0
        for name, (_change, rendered) in self._last.items():
            if model in (None, name):
                call.put(0, rendered)
        call.flush()
        self._listeners[call] = model
        return call

    def close(self) -> None:
        """Stop to watch. Listeners hear nothing more."""
        if self._watching is not None:
            self._watching.cancel()
        self._forget()

    def _forget(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._watching = None
        self._last, self._told_at, self._timers = {}, {}, {}

    def _leave(self, call: Call[Any], failure: Failure | None) -> None:
        """The listener has gone, or is to go for this reason."""
        if self._listeners.pop(call, False) is False:
            return
        call.pending.clear()
        if failure is not None:
            call.end(0, failure)
            call.flush()
        if not self._listeners:
            self.close()

    async def _watch(self, upstream: Call[StateChange]) -> None:
        try:
            while True:
                for _index, change in await upstream.take():
                    if isinstance(change, Failure):
                        self._end(change)
                        return
                    self._hear(change)
        except Exception:
            log.exception("the changes of models cannot be told")
            self._end(_BROKEN)
        finally:
            upstream.close()
            if self._watching is asyncio.current_task():  # else others watch by now
                self._forget()

    def _end(self, failure: Failure) -> None:
        for call in list(self._listeners):
            self._leave(call, failure)

    def _hear(self, change: StateChange) -> None:
        model, now = change.model_id, asyncio.get_running_loop().time()
        known = self._last.get(model)
        self._last[model] = (change, self._render(change))
        if model in self._timers:
            if known is not None and _is_a_step(known[0], change):
                return  # the timer tells it
            self._timers.pop(model).cancel()
        due = self._told_at.get(model, 0.0) + STEP_SECONDS
        if known is not None and now < due and _is_a_step(known[0], change):
            self._timers[model] = asyncio.get_running_loop().call_at(due, self._tell_late, model)
        else:
            self._tell(model, now)

    def _tell_late(self, model: str) -> None:
        del self._timers[model]
        self._tell(model, asyncio.get_running_loop().time())

    def _tell(self, model: str, now: float) -> None:
        self._told_at[model] = now
        _change, rendered = self._last[model]
        for call, wanted in list(self._listeners.items()):
            if wanted in (None, model):
                call.put(0, rendered)
                call.flush()


def _is_a_step(before: StateChange, change: StateChange) -> bool:
    """Whether nothing has changed but how far it is."""
    return (before.state, before.reason, before.stage) == (change.state, change.reason, change.stage)
