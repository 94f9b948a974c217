"""In which order requests go on when their process has died, so that one that kills it is found and harms no other.

A process that dies does not say which of its requests it died of. Those that had output go on at once, together. One
that had none may be the cause: it is a suspect, and goes on last and alone, after all others have output again. If its
process dies once more it is the cause. Requests under which two processes have died in mid-answer go on one at a time,
each until it ends. Of requests whose process was killed for the memory that it took, as many go on together as fit by
the bytes that each of them took there, on average; the others follow as these end. By its own account the process had
room for all of them, so what was measured counts: for a while also for requests that come later, or the same load
would form again at once. They wait behind those that were there.

Requests with a resume_limit of 0 are no suspects: they are sent again once, with the first. Pure questions and notes;
deaths.py and scheduling.py act.
"""

import math
from collections.abc import Collection
from enum import Enum

from broker.policy.records import Instance, Model, PendingRequest, Phase
from broker.wire.kinds import Task

# Of one request, in mid-answer: from then on it goes on with no other of that kind.
_DEATHS_TOGETHER = 2

# How much of what the process may take is used again after it has taken too much: some requests take more than others.
_FILLED = 0.75

# So long after a death by memory, once those that were there have ended, requests that come go by bytes too. Clients
# that had an error, or wait behind others, come back within seconds, all together; in a minute that is over.
CAREFUL_SECONDS = 60.0

# What takes no memory that lasts, and must not wait for answers.
_LIGHT = frozenset({Task.COUNT, Task.VOICES})


class Cause(Enum):
    """Why an instance ends. FAULT: it died, or stopped living; DEVICE: of an error of the GPU, which may have come from
    another process."""

    ASKED = "asked"
    MEMORY = "memory"
    DEVICE = "device"
    FAULT = "fault"


def part_of_each(taken_bytes: int, limit_bytes: int, requests: int) -> float:
    """The part of the memory to fill that each of so many requests takes, who together took more than the limit. Bytes
    are counted without the model."""
    limit_bytes = max(1, limit_bytes)
    return max(taken_bytes, limit_bytes) / (limit_bytes * _FILLED * requests)


def note_death(request: PendingRequest, cause: Cause, *, is_known: bool, memory_part: float) -> None:
    """The process of a request that is sent to another one has ended. is_known: it is known which one it died of, and
    this is another. memory_part: that of each request, where it took too much."""
    if cause is Cause.MEMORY:
        request.memory_part = max(request.memory_part, memory_part)
        request.is_suspect = False  # it is known what ended this one; how much it takes decides from now on
    elif request.resume_limit == 0 or cause is Cause.ASKED:
        return
    elif request.has_output:
        request.decode_deaths += 1
    elif not is_known:
        request.is_suspect = True


def culprit(instance: Instance) -> PendingRequest | None:
    """The suspect that an instance has died of, if it was alone with it."""
    silent = [request for request in instance.in_flight.values() if not request.has_output]
    return silent[0] if len(silent) == 1 and silent[0].is_suspect else None


def next_to_send(model: Model, instance: Instance, last: float) -> PendingRequest | None:
    """Which of the waiting requests to send now, of those before the place `last`; None if there is none, or if all
    have to wait for output of another one."""
    waiting, in_flight = model.waiting, instance.in_flight.values()
    if not waiting or waiting[0].order >= last or any(request.is_suspect for request in in_flight):
        return None
    taken = sum(_part(model, request) for request in in_flight) if model.memory_part else 0.0
    is_full = False  # for all that come after one that waits for memory
    if waiting[0].is_replay:  # they are before all others
        returning = [r for r in waiting if r.is_replay and not r.is_lost and r.order < last]
        for request in returning:
            if not request.is_suspect and _fits(model, request, taken) and _is_in_turn(request, in_flight):
                return request
        suspect = next((r for r in returning if r.is_suspect), None)
        if suspect is not None:
            is_first = any(r.is_lost and r.order < last for r in waiting) or any(_is_awaited(r) for r in in_flight)
            may_go_on = not is_first and _fits(model, suspect, taken) and _is_in_turn(suspect, in_flight)
            return suspect if may_go_on else None
        is_full = not all(_fits(model, request, taken) for request in returning)
    for request in waiting:
        if request.is_replay or request.order >= last:
            continue
        if not _part(model, request):
            return request
        if not is_full and _fits(model, request, taken):
            return request
        is_full = True
    return None


def holds_back(model: Model, instance: Instance) -> bool:
    """Whether the first of the waiting requests waits for others that this instance has, and not for room."""
    if instance.phase is not Phase.READY:
        return False
    first = model.waiting[0]
    if not first.is_lost and (first.is_replay or model.memory_part):
        return True
    return any(one.is_suspect for one in instance.in_flight.values())


def careful_until(model: Model) -> float:
    """Until when the requests of a model go by bytes, after its process took too much memory: as long as there is one
    that was there, and a while after that death and after the load that followed, unless an administrator has asked for
    a load."""
    running = [request for instance in model.instances for request in instance.in_flight.values()]
    if any(request.memory_part for request in (*model.waiting, *running)):
        return math.inf
    if (died_at := model.took_too_much_at) is None:
        return -math.inf
    ready_at = None if model.serving is None else model.serving.ready_at
    return max(died_at, ready_at or died_at) + CAREFUL_SECONDS


def _part(model: Model, request: PendingRequest) -> float:
    """The part of the memory to fill that this request takes: its own, or that of those which took too much last."""
    if not model.memory_part or request.task in _LIGHT:
        return 0.0
    return request.memory_part or model.memory_part


def _fits(model: Model, request: PendingRequest, taken: float) -> bool:
    """Whether there is memory for it beside those that have taken so much. One always fits."""
    part = _part(model, request)
    return not part or not taken or taken + part <= 1.0


def _is_in_turn(request: PendingRequest, in_flight: Collection[PendingRequest]) -> bool:
    return not (_is_single(request) and any(_is_single(other) for other in in_flight))


def _is_single(request: PendingRequest) -> bool:
    return request.decode_deaths >= _DEATHS_TOGETHER


def _is_awaited(request: PendingRequest) -> bool:
    """Whether its first output is waited for. One that cannot go on may give none before its end."""
    return not request.has_output and request.resume_limit > 0
