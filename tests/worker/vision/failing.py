"""How requests to a vision engine fail."""

from typing import Any

from broker.wire.body import to_map
from broker.wire.failure import FailureError
from broker.wire.outputs import ERROR
from tests.worker.engine_runs import add
from tests.worker.stepping import steps
from tests.worker.vision.vision_runs import assert_nothing_left
from worker.vision.engine import VisionEngine


def failure(engine: VisionEngine, **fields: Any) -> dict[str, Any]:
    """How the request ends: refused at once, or by the step that comes to its fault."""
    try:
        request_id = add(engine, 1, **fields)
    except FailureError as error:
        return to_map(error.failure)
    (output,) = steps(engine)
    assert (output.request_id, output.kind) == (request_id, ERROR)
    assert_nothing_left(engine)
    return output.body
