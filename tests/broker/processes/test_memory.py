"""What a process takes, seen on real ones."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from broker.processes.memory import Sampler, total_bytes
from tests.broker.policy.world_books import MIB
from tests.service import wait_until

# Filled: untouched zero pages would not count as resident.
ALLOCATE = "import sys; block = bytearray(b'x' * int(sys.argv[1])); print('done', flush=True); sys.stdin.read()"
SPIN = "print('done', flush=True)\nwhile True: pass"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(program, *arguments)`: a Python process that has printed its first line."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-c", program, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_what_a_process_allocates_is_seen(start: Start) -> None:
    sampler = Sampler()
    small, large = sampler.sample(start(ALLOCATE, "0").pid), sampler.sample(start(ALLOCATE, str(200 * MIB)).pid)
    assert small is not None
    assert large is not None
    assert 195 * MIB < large.rss_bytes - small.rss_bytes < 260 * MIB
    assert large.footprint_bytes >= large.rss_bytes


def test_the_processor_is_measured_since_the_last_look(start: Start) -> None:
    sampler = Sampler()
    process = start(SPIN)
    sampler.sample(process.pid)

    def busy() -> bool:
        sample = sampler.sample(process.pid)
        return sample is not None and sample.cpu_percent > 10

    wait_until(busy, what="processor time of a busy process")
    quiet = start(ALLOCATE, "0")
    sampler.sample(quiet.pid)

    def at_rest() -> bool:  # after its first line it has still to begin its wait
        sample = sampler.sample(quiet.pid)
        return sample is not None and sample.cpu_percent == 0

    wait_until(at_rest, what="no processor time of a process that waits")


def test_a_process_that_has_gone_is_none(start: Start) -> None:
    sampler = Sampler()
    process = start(ALLOCATE, "0")
    assert sampler.sample(process.pid) is not None
    process.kill()
    process.communicate()
    assert sampler.sample(process.pid) is None
    assert sampler.sample(process.pid) is None


def test_a_pid_that_was_forgotten_is_a_new_process(start: Start) -> None:
    sampler = Sampler()
    process = start(ALLOCATE, "0")
    sampler.sample(process.pid)
    sampler.forget(process.pid)
    sampler.forget(process.pid)
    assert sampler.sample(process.pid) is not None


def test_the_memory_of_this_machine() -> None:
    assert total_bytes() == psutil.virtual_memory().total


def test_sampling_eight_workers_each_second_costs_under_half_a_percent_of_a_core(start: Start) -> None:
    sampler = Sampler()
    pids = [start(ALLOCATE, str(MIB)).pid for _ in range(8)]
    rounds = 100
    for pid in pids:
        sampler.sample(pid)
    before = time.process_time()
    for _ in range(rounds):
        for pid in pids:
            assert sampler.sample(pid) is not None
    seconds = (time.process_time() - before) / rounds
    assert seconds < 0.005, f"{seconds * 1000:.2f} ms of processor time for 8 processes"
