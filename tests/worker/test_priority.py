"""A worker gives way to the processes that carry its words."""

import os
import sys

import psutil

from tests.worker.harness import WorkerHarness


def test_a_worker_is_nicer_than_who_started_it_where_it_computes_on_the_cpu(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.serve("worker.echo_engine:EchoEngine")
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    expected = min(mine + 10, 19) if sys.platform == "linux" else mine
    assert psutil.Process(worker.process.pid).nice() == expected
