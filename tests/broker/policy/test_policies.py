"""What the composed policies answer when they are asked; the random histories drive the composition itself."""

from broker.policy.actions import Acknowledge, DropOutputs, ForwardOutputs
from broker.policy.budget import Hardware
from broker.policy.downloads import Downloads
from broker.policy.events import (
    LoadRequested,
    ModelMissed,
    OutputsArrived,
    RequestArrived,
    WorkerBecameReady,
    WorkerConnected,
    WorkerStarted,
)
from broker.policy.flow import Flow
from broker.policy.flow_events import LinkOpened, OutputsRead
from broker.policy.limits import PoolLimits
from broker.policy.policies import Policies
from broker.policy.pool import Pool
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure
from broker.wire.frames import gateway_of
from broker.wire.states import State
from tests.broker.policy.script import R1, R2, R9, W1, Script

SPEC = ModelSpec("a", "text-gen", "/models/a", 1000)
ABSENT = Failure(Code.MODEL_NOT_FOUND, "no model of this name")


def new_policies() -> Policies:
    limits = PoolLimits(2, Hardware(0, 1 << 30))
    return Policies(Pool(limits, "test"), Downloads(limits, "test", "/hub", for_requests=False), Flow())


def test_outputs_are_acknowledged_when_they_are_read_and_dropped_ones_at_once() -> None:
    policies = new_policies()
    policies.handle(LinkOpened(gateway_of(R1)), 1.0)
    policies.handle(RequestArrived(R1, "a", b"payload", SPEC), 1.0)
    for event in (WorkerStarted(W1, 4711), WorkerConnected(W1), WorkerBecameReady(W1, 1000, 4096)):
        policies.handle(event, 1.0)
    forwarded = policies.handle(OutputsArrived(W1, [(R1, False)], [b"one"]), 1.0)
    assert forwarded == [ForwardOutputs(W1, [b"one"])]
    dropped = policies.handle(OutputsArrived(W1, [(R2, False)], [b"two"]), 1.0)
    assert [type(action) for action in dropped] == [DropOutputs, Acknowledge]
    assert dropped[-1] == Acknowledge(W1, 1)
    assert policies.handle(OutputsRead(gateway_of(R1), 1), 1.0) == [Acknowledge(W1, 2)]


def test_pool_and_downloads_are_seen_together() -> None:
    policies = new_policies()
    policies.handle(RequestArrived(R1, "a", b"payload", SPEC), 1.0)
    policies.handle(ModelMissed(LoadRequested(R2, "org/b", None, ABSENT)), 1.0)
    seen = {model_id: shown.state for model_id, shown in policies.announced().items()}
    assert seen == {"a": State.LOADING, "org/b": State.DOWNLOADING}
    status = policies.status(2.0, 0.0, 0.0)
    assert {model["model_id"]: model["state"] for model in status["models"]} == seen
    assert policies.running("a") == SPEC
    policies.handle(WorkerConnected(W1), 2.0)
    policies.handle(WorkerBecameReady(W1, 1000, 4096), 2.0)
    assert policies.running("a") == SPEC


def test_a_model_runs_as_it_was_started_until_it_is_to_end() -> None:
    s = Script()
    assert s.pool.running("a") is None
    s.ask(R1, "a")
    assert s.pool.running("a") == s.specs["a"]
    s.connect(W1)
    s.ready(W1)
    s.unload(R9, "a")
    assert s.pool.running("a") is None  # draining
    s.finish(W1, R1)
    assert s.model("a").serving is not None
    assert s.pool.running("a") is None  # stopping
    s.exits(W1)
    assert s.pool.running("a") is None


def test_a_model_that_is_being_killed_does_not_run() -> None:
    s = Script()
    s.idle("a")
    s.kill(R9, "a")
    assert s.pool.running("a") is None
