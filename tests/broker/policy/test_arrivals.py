"""Requests for a model that serves, one or several at the same moment: handed out as a whole decision would."""

import copy
from collections import deque
from typing import Any

import pytest

from broker.loop import Loop
from broker.policy import pool, scheduling
from broker.policy.actions import Action, Fail, ForwardRequest, StartWorker
from broker.policy.events import (
    Event,
    RequestArrived,
    TimePassed,
    WorkerBecameReady,
    WorkerConnected,
    WorkerStarted,
)
from broker.policy.flow_events import LinkOpened
from broker.policy.noted import RequestSent
from broker.policy.specs import ModelSpec
from broker.wire.clock import Clock
from broker.wire.frames import gateway_of
from tests.broker.policy.pool_world import World
from tests.broker.policy.script import R1, R9, W1, Script
from tests.broker.policy.test_policies import SPEC, new_policies


def requests(spec: ModelSpec, count: int, first: int = 1) -> list[RequestArrived]:
    ids = [b"gatewayA%08d" % (first + number) for number in range(count)]
    return [RequestArrived(request_id, spec.model_id, b"payload", spec) for request_id in ids]


class Count:
    """Of decisions."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made = 0

        def decide(facts: Any, now: float) -> None:
            self.made += 1
            scheduling.decide(facts, now)

        patch.setattr(pool, "decide", decide)


class Done:
    """A Performs that only remembers."""

    is_finished = False

    def __init__(self) -> None:
        self.actions: list[Action] = []

    def perform(self, action: Action) -> None:
        self.actions.append(action)


def test_requests_for_a_model_that_serves_are_only_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    policies, performer, inbox = new_policies(), Done(), deque[Event]()
    nothing: Any = None
    loop = Loop(
        inbox=inbox,
        policy=policies,
        performer=performer,
        clock=Clock(),
        sample_seconds=1.0,
        **dict.fromkeys(("workers", "gateways", "launcher", "logs", "system", "stop", "must_end"), nothing),
    )
    inbox += [LinkOpened(gateway_of(R1)), *requests(SPEC, 1)]
    inbox += [WorkerStarted(W1, 4711), WorkerConnected(W1), WorkerBecameReady(W1, 1000, 4096)]
    loop._take_inbox()
    performer.actions.clear()
    count = Count(monkeypatch)
    other = ModelSpec("b", "text-gen", "/models/b", 1000)
    arrived = [*requests(SPEC, 32, first=2), *requests(other, 2, first=90), *requests(SPEC, 2, first=95)]
    inbox += arrived
    loop._take_inbox()
    sent = [action.request_id for action in performer.actions if isinstance(action, ForwardRequest)]
    assert sent == [event.request_id for event in arrived if event.model_id == "a"]
    assert count.made == 2  # of b, which does not serve: one that finds no place is refused before the next one
    deadline = policies.next_deadline()
    assert deadline is not None
    now = loop._clock.now()
    assert deadline > now
    assert policies.handle(TimePassed(), now) == []  # nothing is left undecided


def test_requests_that_come_at_the_same_moment_wait_for_nothing() -> None:
    """However long it takes to note them all."""
    s = Script()
    s.idle("a")
    s.pool.take_noted()
    first, second = requests(s.specs["a"], 2)
    assert s.pool.handle(first, s.now, second) == []
    sent = s.pool.handle(second, s.now + 0.002)
    assert [type(action) for action in sent] == [ForwardRequest, ForwardRequest]
    assert [noted.waited for noted in s.pool.take_noted() if isinstance(noted, RequestSent)] == [0.0, 0.0]
    [third] = requests(s.specs["a"], 1, first=3)
    s.pool.handle(third, s.now + 0.003)
    assert s.model("a").last_used == s.now + 0.003


def test_a_request_hides_no_deadline_that_has_just_come() -> None:
    s = Script(heartbeat_timeout=1e9, stall_timeout=1e9, load_stall_timeout=1e9)
    s.idle("a")
    first = s.pinned("b")
    s.pin(R9, "b")
    s.dies(first)
    while s.model("b").restart_at <= s.now:
        again = s.worker("b").worker_id
        s.connect(again)
        s.dies(again)
    due = s.model("b").restart_at
    now = due + 0.0005  # the loop has just looked at the clock
    [forwarded] = s.pool.handle(RequestArrived(R1, "a", b"payload", s.specs["a"]), now)
    assert isinstance(forwarded, ForwardRequest)
    assert s.pool.next_deadline() == due
    assert any(isinstance(action, StartWorker) for action in s.pool.handle(TimePassed(), now))


def test_it_is_the_decision_of_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever state the models are, those of random histories."""
    forwarded = failed = 0
    for seed in range(3):
        world = World(seed)
        world.send(TimePassed())
        for step in range(300):
            world.step()
            if step % 10:
                continue
            spec = world.random.choice([*world.specs.values()])
            arrived = requests(spec, world.random.choice([2, 5, 40]), first=10**6)
            apart, together = copy.deepcopy(world.driven), copy.deepcopy(world.driven)
            with monkeypatch.context() as patch:
                patch.setattr(pool.Pool, "_dispatches", lambda *_: False)  # a whole decision for each
                expected = [action for event in arrived for action in apart.handle(event, world.now)]
            following = [*arrived[1:], None]
            found = [
                action
                for event, then in zip(arrived, following, strict=True)
                for action in together.handle(event, world.now, then)
            ]
            for kind in (ForwardRequest, Fail):
                assert _of(kind, found) == _of(kind, expected), world.log[-20:]
            # Of what people are told nothing is new; a state that lasted no time is left out.
            assert {repr(action) for action in found} <= {repr(action) for action in expected}
            assert together.next_deadline() == apart.next_deadline()
            forwarded, failed = forwarded + len(_of(ForwardRequest, found)), failed + len(_of(Fail, found))
    assert forwarded > 50
    assert failed > 50


def _of(kind: type[Action], actions: list[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]
