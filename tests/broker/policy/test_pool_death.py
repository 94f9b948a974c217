"""Rule 8: what a death means for clients. Rule 9: when a model that died may start again."""

import pytest

from broker.policy import restart
from broker.policy.actions import SavePins, StartWorker
from broker.policy.events import ModelPinned
from tests.broker.policy.script import R1, R2, R3, R4, R5, W1, W2, W3, W4, Failed, Script

# ---- 8: clients ---------------------------------------------------------------------------------------------------


def test_requests_without_output_are_replayed_in_their_order_and_the_others_end() -> None:
    s = Script()
    s.busy("a", R1)
    s.ask(R2, "a")
    s.ask(R3, "a")
    s.text(W1, R2)
    assert s.dies(W1, tail="loading\nlibmlx: out of luck\n") == [
        Failed(R2, "worker_died", "the process of a died (signal SIGKILL: libmlx: out of luck)", retryable=True),
        StartWorker(W2, spare=False),
    ]
    s.ask(R4, "a")
    s.connect(W2)
    assert s.ready(W2) == [s.forward(W2, "a", r) for r in (R1, R3, R4)]


def test_a_request_is_replayed_once() -> None:
    s = Script()
    s.busy("a", R1)
    s.dies(W1)
    s.connect(W2)
    s.ready(W2)
    assert s.dies(W2, code=3) == [Failed(R1, "worker_died", "the process of a died (exit code 3)", retryable=True)]


def test_output_after_a_replay_ends_the_hope_of_another() -> None:
    s = Script()
    s.busy("a", R1)
    s.dies(W1)
    s.connect(W2)
    s.ready(W2)
    s.text(W2, R1)
    assert s.dies(W2) == [Failed(R1, "worker_died")]


def test_a_client_that_has_gone_is_not_replayed() -> None:
    s = Script()
    s.busy("a", R1)
    s.cancel(R1)
    assert s.dies(W1) == [Failed(R1, "cancelled")]


def test_who_waits_for_a_load_survives_one_death_and_not_two() -> None:
    s = Script()
    s.loading("a", R1)
    s.load(R2, "a")
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    s.ask(R3, "a")
    says = "the process of a died while loading (signal SIGKILL)"
    assert s.dies(W2) == [
        Failed(R1, "worker_died", says, retryable=True),
        Failed(R2, "worker_died", says, retryable=True),
        SavePins([]),
    ]
    assert s.wait(0.5) == [StartWorker(W3, spare=False)]  # for the third, who has seen one death
    s.connect(W3)
    assert s.ready(W3) == [s.forward(W3, "a", R3)]


def test_a_pin_outlives_the_deaths_of_a_load_that_it_did_not_come_with() -> None:
    s = Script()
    s.send(ModelPinned("a", s.specs["a"]))
    s.load(R1, "a")
    s.dies(W1)
    assert s.dies(W2) == [Failed(R1, "worker_died")]
    assert s.wait(0.5) == [StartWorker(W3, spare=False)]


def test_a_process_that_cannot_even_be_started_has_died() -> None:
    s = Script()
    s.ask(R1, "a")
    assert s.dies(W1, code=127, tail="Resource temporarily unavailable") == [StartWorker(W2, spare=False)]
    assert s.dies(W2, code=127, tail="Resource temporarily unavailable") == [
        Failed(R1, "worker_died", "exit code 127: Resource temporarily unavailable")
    ]


def test_a_pinned_model_restarts_by_itself() -> None:
    s = Script()
    s.pinned("a")
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    assert s.model("a").restarts == 1


def test_any_other_model_restarts_with_the_next_request() -> None:
    s = Script()
    s.idle("a")
    assert s.dies(W1) == []
    assert s.wait(60) == []
    assert (s.state("a"), s.reason("a")) == ("unloaded", "signal SIGKILL")
    assert s.ask(R1, "a") == [StartWorker(W2, spare=False)]
    assert s.model("a").restarts == 1


def test_a_death_concerns_no_other_model() -> None:
    s = Script()
    s.busy("a", R1)
    s.busy("b", R2)
    s.text(W1, R1)
    assert s.dies(W1) == [Failed(R1, "worker_died")]
    assert [a.model_id for a in s.announced if a.shown.state in ("unloaded", "cooldown")] == ["a"]
    assert len(s.text(W2, R2)) == 1


def test_the_last_exit_is_remembered() -> None:
    s = Script()
    s.idle("a")
    s.dies(W1, signal="SIGABRT", tail="first\nlast")
    exit_ = s.model("a").last_exit
    assert exit_ is not None
    assert (exit_.code, exit_.signal, exit_.at, exit_.stderr_tail) == (None, "SIGABRT", 77.0, "first\nlast")
    assert s.model("a").last_reason == "signal SIGABRT: last"


# ---- 9: restarts, in numbers --------------------------------------------------------------------------------------


def test_the_delays() -> None:
    assert [restart.delay_seconds(n) for n in range(10)] == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [restart.gives_up(n) for n in range(7)] == [False] * 5 + [True] * 2


def test_a_model_that_keeps_dying_is_started_ever_later_and_has_failed_after_five_deaths() -> None:
    s = Script()
    s.send(ModelPinned("a", s.specs["a"]))
    assert s.dies(W1) == [StartWorker(W2, spare=False)]
    for n, delay in [(2, 0.5), (3, 1.0), (4, 2.0)]:
        assert s.dies(f"w{n}-test") == []
        assert s.state("a") == "cooldown"
        assert s.wait(delay - 0.01) == []
        assert s.wait(0.01) == [StartWorker(f"w{n + 1}-test", spare=False)]
    assert s.dies("w5-test", code=1, tail="no") == []
    assert (s.state("a"), s.reason("a")) == ("failed", "5 deaths in a row, the last: exit code 1: no")
    assert s.wait(1000) == []


def test_who_waits_when_it_has_failed_is_told() -> None:
    s = Script()
    for n in range(1, 5):
        s.loading("a", b"gatewayAearly%03d" % n)
        s.load_fails(f"w{n}-test")
        s.dies(f"w{n}-test", code=1)
        s.wait(3)
    s.loading("a", R1)
    s.load_fails("w5-test")
    s.ask(R2, "a")
    assert s.dies("w5-test", code=1) == [Failed(R2, "worker_died", "a has failed: 5 deaths in a row")]
    assert s.ask(R3, "a") == [Failed(R3, "model_unavailable", "a has failed: 5 deaths in a row")]


def test_requests_for_a_model_that_cools_down_are_refused_with_the_time_that_is_left() -> None:
    s = Script()
    s.idle("a")
    s.dies(W1)
    s.loading("a", R1)
    s.cancel(R1)
    s.dies(W2)
    assert s.state("a") == "cooldown"
    s.now += 0.125
    says = "a is cooling down after 2 failures: signal SIGKILL"
    assert s.ask(R2, "a") == [Failed(R2, "model_unavailable", says, retry_after=0.375, retryable=True)]
    assert s.wait(0.375) == []
    assert s.state("a") == "unloaded"
    assert s.ask(R3, "a") == [StartWorker(W3, spare=False)]


@pytest.mark.parametrize(("served", "state"), [(10.0, "loading"), (9.9, "cooldown")])
def test_ten_seconds_of_stable_life_are_a_new_beginning(served: float, state: str) -> None:
    s = Script()
    s.pinned("a")
    s.dies(W1)
    s.dies(W2)
    s.wait(0.5)
    s.connect(W3)
    s.ready(W3)
    s.wait(served, W3)
    s.dies(W3)
    assert s.state("a") == state


def test_an_admins_load_tries_again_at_once() -> None:
    s = Script()
    s.send(ModelPinned("a", s.specs["a"]))
    for n in range(1, 6):
        s.dies(f"w{n}-test")
        s.wait(3)
    assert s.state("a") == "failed"
    assert s.load(R1, "a") == [StartWorker("w6-test", spare=False)]
    assert s.model("a").deaths == 0


def test_an_admins_load_ends_the_cooldown() -> None:
    s = Script()
    s.pinned("a")
    s.dies(W1)
    s.dies(W2)
    assert s.state("a") == "cooldown"
    assert s.load(R1, "a") == [StartWorker(W3, spare=False)]
    assert s.dies(W3) == [StartWorker(W4, spare=False)]  # the first death since: at once


def test_a_death_that_somebody_asked_for_does_not_count() -> None:
    s = Script(max_models=1)
    s.idle("a")
    s.ask(R4, "b")
    s.dies(W1, signal="SIGTERM")
    assert s.model("a").deaths == 0
    s.connect(W2)
    s.ready(W2)
    s.finish(W2, R4)
    assert s.ask(R5, "a") != []
