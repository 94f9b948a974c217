"""What metrics counts, as STATUS has it: the pool and its heartbeats on a clock of the test's own."""

from dataclasses import replace
from typing import Any

import pytest

from broker.policy.actions import Action
from broker.policy.downloads import Downloads
from broker.policy.events import Event, HeartbeatArrived, OutputsArrived, WorkerExited, WorkerProgressed
from broker.policy.flow import Flow
from broker.policy.metrics import QUEUE_BOUNDS, Metrics
from broker.policy.noted import FirstOutput, ProcessTaken
from broker.policy.policies import Policies
from broker.policy.specs import Exit
from tests.broker.policy.script import R1, R2, R3, R4, W1, W2, Script


class Counted(Script):
    """A script that drives all policies."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        downloads = Downloads(self.limits, "test", "/hub", for_requests=False)
        self.driven: Any = Policies(self.pool, downloads, Flow())

    def send(self, event: Event) -> list[Action]:
        if isinstance(event, OutputsArrived):
            self.sent[event.worker_id] += 1
        return super().send(event)

    def counts(self, model_id: str = "a") -> dict[str, Any]:
        [found] = [m for m in self.driven.status(self.now, 0.0, 0.0)["models"] if m["model_id"] == model_id]
        return dict(found)

    def beats(self, worker_id: str, generated: int, prompt: int = 0, cached: int = 0, live: int = 0) -> None:
        """A heartbeat with these counts."""
        stages = (live, min(live, 2), min(live, 1))
        self.send(HeartbeatArrived(worker_id, 1, 1, 2, 3, *stages, generated, prompt, cached))


@pytest.fixture
def s() -> Counted:
    return Counted()


def test_a_model_that_was_never_counted_has_zeros() -> None:
    assert Metrics().of("a", 5.0) == {
        "tokens_per_second": 0.0,
        "prompt_tokens_per_second": 0.0,
        "ttft_seconds": None,
        "prompt_tokens": 0,
        "cached_prompt_tokens": 0,
        "generation_tokens": 0,
        "queue_times": {"bounds": list(QUEUE_BOUNDS), "counts": [0] * 16, "seconds": 0.0},
        "loads": 0,
        "load_seconds": {},
        "replays": 0,
        "resumes": 0,
        "evictions": 0,
        "exits": {},
        "heartbeat_age_seconds": None,
        "live": 0,
        "waiting": 0,
        "prefilling": 0,
        "disk_cache_bytes": 0,
        "disk_cache_files": 0,
        "disk_cache_hits": 0,
        "decode_steps": 0,
        "late_steps": 0,
        "disk_cache_queue_bytes": 0,
    }


def test_tokens_outlive_their_processes(s: Counted) -> None:
    s.idle("a")
    s.beats(W1, 100, 50, 20, live=3)
    s.dies(W1)
    s.busy("a", R2)
    s.beats(W2, 7, 5, 1)
    counts = s.counts()
    assert (counts["generation_tokens"], counts["prompt_tokens"], counts["cached_prompt_tokens"]) == (107, 55, 21)
    s.exits(W2)
    assert s.counts()["generation_tokens"] == 107


def test_last_words_count_in_whatever_order_they_come(s: Counted) -> None:
    """They have another socket than the beats, and may come before one of those or behind the exit."""
    s.idle("a")
    s.beats(W1, 100, 50, 20)
    s.beats(W1, 90, 45, 20)
    counts = s.counts()
    assert (counts["generation_tokens"], counts["prompt_tokens"], counts["cached_prompt_tokens"]) == (100, 50, 20)
    s.dies(W1)
    s.beats(W1, 120, 60, 20)
    s.beats(W1, 110, 55, 20)
    s.beats(W1, 120, 60, 20)
    counts = s.counts()
    assert (counts["generation_tokens"], counts["prompt_tokens"], counts["cached_prompt_tokens"]) == (120, 60, 20)
    assert (counts["live"], counts["heartbeat_age_seconds"]) == (0, None)


def test_of_many_processes_that_have_gone_the_last_ones_are_listened_to() -> None:
    metrics = Metrics()
    for number in range(20):
        metrics.handle(ProcessTaken(f"w{number}", "a", 0), 0.0)
        metrics.handle(WorkerExited(f"w{number}", Exit(0, None, 0.0, "")), 0.0)
    for number in range(20):
        metrics.handle(HeartbeatArrived(f"w{number}", 1, 1, 2, 3, 0, 0, 0, 1), 0.0)
    assert metrics.of("a", 0.0)["generation_tokens"] == 16


def test_what_the_last_heartbeat_says_is_gone_with_its_process(s: Counted) -> None:
    s.idle("a")
    s.beats(W1, 100, live=3)
    s.now += 0.25
    counts = s.counts()
    assert (counts["live"], counts["waiting"], counts["prefilling"]) == (3, 2, 1)
    assert counts["heartbeat_age_seconds"] == 0.25
    s.dies(W1)
    counts = s.counts()
    assert (counts["live"], counts["waiting"], counts["prefilling"], counts["heartbeat_age_seconds"]) == (0, 0, 0, None)


def test_rates_are_those_of_the_last_seconds(s: Counted) -> None:
    s.idle("a")
    for beat in range(1, 41):  # 20 s with 200 tokens and 30 of prompts in each
        s.now += 0.5
        s.beats(W1, 100 * beat, 15 * beat)
    s.now += 0.4
    assert s.counts()["tokens_per_second"] == pytest.approx(200)
    assert s.counts()["prompt_tokens_per_second"] == pytest.approx(30)
    s.now += 0.1
    for _ in range(5):  # 2.5 s without any: half of the window
        s.beats(W1, 4000, 600)
        s.now += 0.5
    assert 80 < s.counts()["tokens_per_second"] < 130
    for _ in range(7):
        s.beats(W1, 4000, 600)
        s.now += 0.5
    assert s.counts()["tokens_per_second"] == 0


def test_a_model_that_has_just_begun_has_its_rate_at_once(s: Counted) -> None:
    s.idle("a")
    s.now += 0.5
    s.beats(W1, 100)
    assert s.counts()["tokens_per_second"] == 200


def test_a_rate_needs_a_process_that_is_heard(s: Counted) -> None:
    s.idle("a")
    s.now += 0.5
    s.beats(W1, 100)
    s.now += 5.1
    assert s.counts()["tokens_per_second"] == 0
    s.beats(W1, 200)
    assert s.counts()["tokens_per_second"] > 0
    s.dies(W1)
    assert s.counts()["tokens_per_second"] == 0
    s.busy("a", R2)
    s.now += 0.5
    s.beats(W2, 10)  # not the difference from the process before
    assert s.counts()["tokens_per_second"] == 20


def test_beats_that_come_often_are_as_good(s: Counted) -> None:
    s.idle("a")
    for beat in range(1, 1001):
        s.now += 0.01
        s.beats(W1, beat)
    assert s.counts()["tokens_per_second"] == pytest.approx(100)
    assert len(s.driven._metrics._models["a"].samples) <= 2 + 5 / 0.25


def test_time_to_first_output_is_that_of_streams_of_the_last_minute(s: Counted) -> None:
    s.ask(R1, "a")
    s.now += 3
    s.connect(W1)
    s.ready(W1)
    assert s.counts()["ttft_seconds"] is None
    s.now += 1
    s.text(W1, R1)
    s.now += 5
    s.text(W1, R1)  # not the first
    assert s.counts()["ttft_seconds"] == 4
    s.ask(R2, "a")
    s.now += 2
    s.text(W1, R2)
    s.ask(R3, "a")
    s.now += 20
    s.finish(W1, R3)  # a whole answer: says nothing about the first token
    assert s.counts()["ttft_seconds"] == 3
    s.now += 39
    assert s.counts()["ttft_seconds"] == 2
    s.now += 1
    assert s.counts()["ttft_seconds"] is None


def test_first_outputs_are_counted_without_an_event_in_between(s: Counted) -> None:
    s.busy("a", R1)
    s.now += 1
    s.driven.handle(OutputsArrived(W1, [(R1, False)], [b"frames"]), s.now)
    assert s.counts()["ttft_seconds"] == 1


def test_a_load_is_counted_with_the_seconds_of_its_stages(s: Counted) -> None:
    s.ask(R1, "a")
    s.now += 0.5
    s.connect(W1)
    for seconds, stage, fraction in [(2, "tokenizer", 1.0), (1, "weights", 0.4), (1, "weights", 1.0)]:
        s.now += seconds
        s.send(WorkerProgressed(W1, stage, fraction))
    s.now += 0.25
    assert (s.counts()["loads"], s.counts()["load_seconds"]) == (0, {})
    s.ready(W1)
    stages = {"process": 0.5, "tokenizer": 2.0, "weights": 2.0, "warm_up": 0.25}
    assert (s.counts()["loads"], s.counts()["load_seconds"]) == (1, stages)
    s.finish(W1, R1)
    s.dies(W1)
    s.ask(R2, "a")
    s.connect(W2)
    assert s.counts()["load_seconds"] == stages  # of the last one that was completed
    s.ready(W2)
    assert (s.counts()["loads"], s.counts()["load_seconds"]) == (2, {"process": 0.0, "warm_up": 0.0})


def test_a_spare_that_is_taken_has_no_time_to_start() -> None:
    s = Counted(warm_spares=1)
    s.send(HeartbeatArrived(W1, 1, 0, 0, 0))  # there is none yet
    s.wait(1.0)
    s.connect(W1)
    s.progress(W1, "imported")
    s.now += 2
    s.ask(R1, "a")
    s.now += 1
    s.progress(W1, "weights", 1.0)
    s.ready(W1)
    assert s.counts()["load_seconds"] == {"weights": 1.0, "warm_up": 0.0}
    s.progress(W1, "weights", 1.0)  # which nothing waits for any more
    assert s.counts()["load_seconds"] == {"weights": 1.0, "warm_up": 0.0}


def test_exits_are_counted_by_signal_and_by_code(s: Counted) -> None:
    for code, signal in [(None, "SIGKILL"), (None, "SIGKILL"), (0, None), (71, None)]:
        s.load(s.new_id("a", admin=True), "a")  # without waiting for a pause after deaths
        worker_id = s.worker("a").worker_id
        s.dies(worker_id, signal=signal, code=code)
    assert s.counts()["exits"] == {"SIGKILL": 2, "0": 1, "71": 1}


def test_the_exit_of_a_spare_belongs_to_no_model() -> None:
    s = Counted(warm_spares=1)
    s.wait(1.0)
    s.dies(W1)
    s.busy("a", R1)
    assert s.counts()["exits"] == {}


def test_replays_are_requests_that_are_sent_again(s: Counted) -> None:
    s.busy("a", R1)
    s.ask(R2, "a")
    s.text(W1, R2)
    s.ask(R3, "a")
    s.cancel(R3)
    s.dies(W1)  # R2 has output and R3 is cancelled: both end
    assert s.counts()["replays"] == 0
    s.connect(W2)
    s.ready(W2)
    s.ask(R4, "a")
    assert s.counts()["replays"] == 1


def test_times_in_the_queue_are_counted_once_for_each_request_that_is_sent(s: Counted) -> None:
    s.ask(R1, "a")
    s.wait(0.2)
    s.ask(R2, "a")
    s.ask(R3, "a")
    s.cancel(R3)  # it is never sent
    s.wait(0.4)
    s.connect(W1)
    s.ready(W1)
    assert sum(s.counts()["queue_times"]["counts"]) == 2
    s.dies(W1)
    s.wait(5.0)
    s.connect(W2)
    s.ready(W2)
    times = s.counts()["queue_times"]
    told = {bound: count for bound, count in zip(times["bounds"], times["counts"], strict=False) if count}
    assert told == {0.5: 1, 1.0: 1}
    assert times["seconds"] == pytest.approx(0.6 + 0.4)
    s.ask(R4, "a")  # the process is ready: it waits for nothing
    assert s.counts()["queue_times"]["counts"][0] == 1


def test_evictions_for_a_load_are_counted() -> None:
    s = Counted(max_models=1)
    s.idle("a")
    s.ask(R2, "b")
    assert s.counts("a")["evictions"] == 1
    s.exits(W1)
    s.connect(W2)
    s.ready(W2)
    s.finish(W2, R2)
    s.unload(R3, "b")
    s.exits(W2)
    assert s.counts("b")["evictions"] == 0


def test_ranks_are_one_model(s: Counted) -> None:
    s.add_model("wide", 100, ranks=2)
    s.ask(R1, "wide")
    for worker_id in (W1, W2):
        s.connect(worker_id)
        s.ready(worker_id)
    s.beats(W1, 10)
    s.beats(W2, 10)
    counts = s.counts("wide")
    assert (counts["loads"], counts["generation_tokens"]) == (1, 10)
    s.now += 1
    s.beats(W1, 30)
    s.beats(W2, 999)
    assert s.counts("wide")["tokens_per_second"] == 30
    s.dies(W1)
    s.dies(W2)
    assert s.counts("wide")["exits"] == {"SIGKILL": 2}
    assert s.counts("wide")["generation_tokens"] == 30


def test_a_process_and_its_successor_count_together_until_the_first_has_ended(s: Counted) -> None:
    s.busy("a", R1)
    s.beats(W1, 100, live=1)
    s.reload(R2, "a")
    s.connect(W2)
    s.ready(W2)
    assert s.counts()["loads"] == 2
    s.wait(1.0)
    on_disk = HeartbeatArrived(
        W1, 2, 1, 2, 3, 1, 0, 0, 140, disk_bytes=500, disk_files=5, disk_hits=2, disk_queue_bytes=7
    )
    s.send(on_disk)
    s.send(replace(on_disk, worker_id=W2, generation_tokens=20, disk_bytes=510, disk_files=6, disk_hits=1))
    told = s.counts()
    assert (told["generation_tokens"], told["live"], told["tokens_per_second"]) == (160, 2, pytest.approx(160))
    assert (told["disk_cache_bytes"], told["disk_cache_files"]) == (510, 6), "both tell of the same files"
    assert (told["disk_cache_hits"], told["disk_cache_queue_bytes"]) == (3, 14)
    s.finish(W1, R1)
    s.exits(W1)
    told = s.counts()
    assert (told["generation_tokens"], told["live"], told["disk_cache_bytes"]) == (160, 1, 510)


def test_of_very_many_first_outputs_the_last_ones_count() -> None:
    metrics = Metrics()
    for number in range(1500):
        metrics.handle(FirstOutput("a", 1.0, 0.0 if number < 500 else 2.0), 1.0)
    assert metrics.of("a", 1.0)["ttft_seconds"] == 2
