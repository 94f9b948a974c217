"""Compute threads of a worker run at a lower priority than its I/O threads."""

import os
import sys
import threading

import psutil
import pytest

from tests.worker.harness import WorkerHarness
from worker.process.priority import lower_priority


def test_what_computes_is_nicer_than_what_carries_words_where_models_compute_on_the_cpu(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.serve("worker.echo.engine:EchoEngine")
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    process = psutil.Process(worker.process.pid)
    nicer = min(mine + 10, 19) if sys.platform == "linux" else mine
    assert process.nice() == nicer  # of its main thread
    if sys.platform == "linux":
        others = [thread.id for thread in process.threads() if thread.id != process.pid]
        # lifeline, heartbeat, and two of ZeroMQ's for each of its two contexts
        assert len(others) >= 6
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in others} == {mine}
        # Threads that compute do not interrupt each other.
        assert os.sched_getscheduler(process.pid) == os.SCHED_BATCH
        assert {os.sched_getscheduler(thread) for thread in others} == {os.SCHED_OTHER}


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies of Linux")
def test_a_scheduling_policy_from_outside_stays() -> None:
    """A service that is run with `chrt --idle` asks for less than a batch thread gets."""
    found = []

    def compute() -> None:
        thread = threading.get_native_id()
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        lower_priority()
        found.append(os.sched_getscheduler(thread))

    computes = threading.Thread(target=compute)
    computes.start()
    computes.join()
    assert found == [os.SCHED_IDLE]
