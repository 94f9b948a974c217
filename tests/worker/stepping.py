"""Any engine in the test's own process, stepped to the end of its work."""

from broker.wire.body import Body, from_map
from broker.wire.failure import Failure, FailureError
from broker.wire.outputs import ERROR, Output
from broker.wire.packing import pack
from worker.engine import Engine

# More than any request here can need: every loop over steps has an end.
MOST_STEPS = 20_000


def steps(engine: Engine) -> list[Output]:
    outputs: list[Output] = []
    for _ in range(MOST_STEPS):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
    raise AssertionError("the engine does not come to an end")


def refusal(engine: Engine, payload: Body) -> Failure:
    """How the request ends: refused at once, or when it is read."""
    try:
        engine.add(b"r", pack(payload))
    except FailureError as error:
        assert not engine.has_work
        return error.failure
    (output,) = steps(engine)
    assert (output.request_id, output.kind) == (b"r", ERROR), output
    return from_map(Failure, output.body)
