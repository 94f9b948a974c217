"""What a process takes, seen on real ones."""

import ctypes
import os
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from broker.processes.memory import Sampler, darwin_footprint, footprint_of_system, total_bytes
from tests.broker.policy.world_books import MIB
from tests.service import wait_until
from tests.timing import cpu_seconds

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


class LibProc:
    """`proc_pid_rusage` with flavor 0 as XNU has it: fills 96 bytes and returns 0, or -1 for a process that is gone."""

    def __init__(self, footprint: int | None) -> None:
        self._footprint = footprint

    def proc_pid_rusage(self, pid: int, flavor: int, buffer: Any) -> int:
        assert flavor == 0
        if self._footprint is None:
            return -1
        # uuid, user and system time, wake-ups, interrupts, page-ins, wired, resident, footprint, start, exit
        content = struct.pack("16s10Q", b"\xee" * 16, 1, 2, 3, 4, 5, 6, 33 << 20, self._footprint, 8, 0)
        assert len(content) == 96
        assert ctypes.sizeof(buffer._obj) == 96  # what the kernel writes must have room
        ctypes.memmove(buffer, content, len(content))
        return 0


def test_on_macos_the_footprint_counts_what_metal_holds() -> None:
    """As it was reported: 33 MB resident, 49.8 GB in the footprint."""
    footprint = 49_800_000_000
    assert darwin_footprint(LibProc(footprint))(11, 33 << 20) == footprint
    assert darwin_footprint(LibProc(1))(11, 33 << 20) == 33 << 20
    sampler = Sampler(darwin_footprint(LibProc(footprint)))
    sample = sampler.sample(os.getpid())
    assert sample is not None
    assert sample.rss_bytes < sample.footprint_bytes == footprint


def test_on_macos_a_process_that_does_not_say_counts_as_resident() -> None:
    assert darwin_footprint(LibProc(None))(11, 123) == 123


def test_elsewhere_the_footprint_is_what_is_resident() -> None:
    assert footprint_of_system("linux")(11, 123) == 123


def test_sampling_eight_workers_each_second_costs_under_half_a_percent_of_a_core(start: Start) -> None:
    sampler = Sampler()
    pids = [start(ALLOCATE, str(MIB)).pid for _ in range(8)]

    def sample() -> None:
        for pid in pids:
            assert sampler.sample(pid) is not None

    sample()
    seconds = statistics.median(cpu_seconds(sample) for _ in range(100))
    assert seconds < 0.005, f"{seconds * 1000:.2f} ms of processor time for 8 processes"
