"""A worker process and its share of memory, with the broker's side played."""

from pathlib import Path

import pytest

from broker.wire.from_gateways import Cancel
from broker.wire.from_workers import Need, Ready
from broker.wire.outputs import ERROR, Outputs
from broker.wire.to_workers import Share, Shrink
from tests.tiny_models import make_tiny_model
from tests.worker.harness import Worker, WorkerHarness

MIB = 2**20
LIMIT = 64 * MIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 KiB for a token of a sequence."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=128, layers=4)


@pytest.fixture
def worker(harness: WorkerHarness, model: Path) -> Worker:
    """A worker whose share is what it needs without any sequence."""
    worker = harness.start()
    worker.assign(None, model, share=50 * MIB, limit=LIMIT)
    worker.expect(Ready)
    worker.send(Shrink(MIB))
    need = worker.expect(Need)
    while need.share_bytes > need.least_bytes:
        need = worker.expect(Need)
    worker.send(Share(need.share_bytes, LIMIT))
    return worker


def test_a_request_waits_for_a_share_and_the_wait_is_no_standstill(worker: Worker) -> None:
    request = worker.request(prompt="a" * 500, max_tokens=20, temperature=0.0)
    need = worker.expect(Need)
    assert need.share_bytes > 500 * 2048
    worker.heartbeats.clear()
    steps = [worker.next_heartbeat().steps for _ in range(4)]
    assert steps == sorted(set(steps))
    worker.send(Share(need.share_bytes))
    assert worker.answer(request)["completion_tokens"] == 20


def test_a_request_that_waits_can_be_cancelled(worker: Worker) -> None:
    request = worker.request(prompt="a" * 4000, max_tokens=20)
    asked = worker.expect(Need)
    worker.send(Cancel(), request)
    assert worker.expect(Outputs).entries == [(request, ERROR)]
    worker.request(prompt="b" * 200, max_tokens=20)
    again = worker.expect(Need)
    assert again.must_bytes is not None
    assert asked.must_bytes is not None
    assert again.must_bytes < asked.must_bytes


def test_the_largest_share_may_fall_while_requests_wait(worker: Worker) -> None:
    request = worker.request(prompt="a" * 500, max_tokens=20)
    need = worker.expect(Need)
    worker.send(Share(need.least_bytes + MIB, need.least_bytes + MIB))
    failure = worker.failure(request)
    assert (failure.code, failure.param) == ("context_length_exceeded", "prompt")
    refused = worker.failure(worker.request(prompt="a" * 500, max_tokens=20))
    assert refused == failure
