"""Compute threads of a worker run at a lower priority than its I/O threads."""

import os
import sys

import psutil

from tests.worker.harness import WorkerHarness


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
