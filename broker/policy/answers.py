"""How requests end without having run, and what ends with them: refusals, failures, cancellations; pins.

Everything here answers requests. It starts, stops and kills nothing.
"""

from typing import Any

from broker.policy.actions import Fail, SavePins
from broker.policy.facts import Facts
from broker.policy.records import Model, PendingRequest
from broker.wire.failure import Code, Failure

CANCELLED = Failure(Code.CANCELLED, "the client has gone")
SHUTTING_DOWN = Failure(Code.MODEL_UNAVAILABLE, "the broker is shutting down", retryable=True)


def ended_its_process(model_id: str, how: str) -> Failure:
    """Of a request that ended its process while it was taken in. Not to be tried again: it would end the next one."""
    return Failure(Code.WORKER_DIED, f"this request ended the process of {model_id} while it was taken in ({how})")


def ended_two_processes(model_id: str, how: str) -> Failure:
    """Of a request under which two processes have ended before its first output, the second alone with it."""
    what = f"this request ended two processes of {model_id} before its first output, the second one alone"
    return Failure(Code.WORKER_DIED, f"{what} ({how})")


def load_report(model: Model) -> dict[str, Any]:
    """The FINAL of LOAD and KEEP."""
    assert model.spec is not None
    return {
        "model_id": model.model_id,
        "model_type": model.spec.model_type,
        "size_bytes": model.serving.reserved_bytes if model.serving is not None else 0,
        "pinned": model.pinned,
    }


def fail(facts: Facts, request_id: bytes, failure: Failure) -> None:
    facts.actions.append(Fail(request_id, failure))


def refuse(facts: Facts, request_id: bytes, problem: Failure | None, model_id: str) -> None:
    """There is no such model, or it cannot be used for this."""
    fail(facts, request_id, problem or Failure(Code.MODEL_NOT_FOUND, f"no model named {model_id!r}"))


def end(facts: Facts, request: PendingRequest, failure: Failure) -> None:
    """The request is in no queue and in no worker any more."""
    del facts.requests[request.request_id]
    facts.actions.append(Fail(request.request_id, failure, request.trace))


def fail_loads(facts: Facts, model: Model, failure: Failure) -> None:
    """Every LOAD and RELOAD that waits for this model gets the same error."""
    for wait in (*model.loads, *(model.reload.waits if model.reload is not None else ())):
        fail(facts, wait.request_id, failure)
    model.loads, model.reload = [], None


def give_up_waiting(facts: Facts, model: Model, failure: Failure) -> None:
    """All requests that wait for this model get the same error. A pin that came with a failed load goes with it; any
    other stays, and the model is `failed` if there is no point in trying again by itself."""
    while model.waiting:
        end(facts, model.waiting.popleft(), failure)
    fail_loads(facts, model, failure)
    if model.pinned_by_load:
        unpin(facts, model)
    if failure.code is Code.INSUFFICIENT_MEMORY and model.pinned:
        model.failure = failure.message


def restart_waiting(model: Model, now: float) -> None:
    """Requests that waited for a process that is gone begin to wait for the next one."""
    for request in model.waiting:
        request.waiting_since = now


def pin(facts: Facts, model: Model, order: int) -> None:
    model.pinned, model.pin_order = True, order
    _save_pins(facts)


def unpin(facts: Facts, model: Model) -> None:
    if model.pinned:
        model.pinned = model.pinned_by_load = False
        _save_pins(facts)


def finish_drain(facts: Facts, model: Model) -> None:
    """The instance leaves, and with it the pin, unless a load or a pin has been requested since."""
    keeps_pin = model.drain is not None and model.drain.keeps_pin
    model.drain = None
    if not model.loads and not keeps_pin:
        unpin(facts, model)


def _save_pins(facts: Facts) -> None:
    facts.actions.append(SavePins(sorted(m.model_id for m in facts.models.values() if m.pinned)))
