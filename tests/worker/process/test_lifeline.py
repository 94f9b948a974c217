"""No worker outlives its broker. `parent` below stands for the broker."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.harness import PATIENCE, ROOT, WorkerHarness, worker_command

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PDEATHSIG")


def test_end_of_stdin_ends_a_worker(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.serve("worker.echo.engine:EchoEngine")
    assert worker.process.stdin
    worker.process.stdin.close()
    assert worker.exit_code(timeout=2) == 1


def test_end_of_stdin_ends_a_worker_whose_main_thread_hangs(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.assign("tests.engines:Misbehaving", on_load="hang")
    worker.next_message()  # the echo engine's report, after which it hangs
    assert worker.process.stdin
    worker.process.stdin.close()
    assert worker.exit_code(timeout=2) == 1


def test_a_worker_whose_parent_is_another_exits_at_once(harness: WorkerHarness) -> None:
    worker = harness.start(parent_pid=1)
    assert worker.exit_code() == 1
    assert worker.inbox == []


# Starts a worker as the broker does, tells when it runs, and waits to be killed. Its own stdin: what the worker gets
# as stdin, if that must not be a pipe of the parent.
_PARENT = """
import os, subprocess, sys
own_pipe, *command = sys.argv[1:]
command = [str(os.getpid()) if word == "PARENT" else word for word in command]
stdin = subprocess.PIPE if own_pipe == "yes" else sys.stdin
worker = subprocess.Popen(command, stdin=stdin, process_group=0)
worker.wait()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mb-") as name:
        yield Path(name)


@pytest.mark.parametrize("own_pipe", ["yes", pytest.param("no", marks=linux_only)])
def test_a_killed_parent_takes_its_worker_along(folder: Path, own_pipe: str) -> None:
    """`no`: this test keeps the worker's stdin open, so that nothing but PDEATHSIG can end it."""
    harness = WorkerHarness(folder)
    command = worker_command(harness.endpoint, "w0-0", 0)
    command[command.index("--parent-pid") + 1] = "PARENT"
    # Parent and worker hold the writing end: its end of file means that both are gone.
    alive, held = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, own_pipe, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=held, stderr=held
    )
    os.close(held)
    try:
        harness.wait_for_contact(PATIENCE)
        parent.kill()
        parent.wait(PATIENCE)
        assert select.select([alive], [], [], 2.0)[0], "the worker lives on"
        assert os.read(alive, 1000) == b""
    finally:
        parent.kill()
        parent.wait(PATIENCE)
        assert parent.stdin
        parent.stdin.close()
        os.close(alive)
        harness.close()
