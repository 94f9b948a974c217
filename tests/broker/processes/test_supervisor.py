"""Real worker processes: how they end, what they print, whom they leave behind."""

import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from broker.policy.actions import StartWorker
from broker.policy.specs import Exit
from broker.processes.lines import TAIL_LINES
from broker.processes.supervisor import Supervisor
from broker.wire.codec import decode, encode
from broker.wire.from_peers import Hello
from broker.wire.to_workers import Assign, Shutdown
from tests.broker.policy.world_books import MIB
from tests.service import wait_until

LOUD = "tests.broker.processes.loud_engine:LoudEngine"
SECONDS = 15.0


class Yard:
    """A supervisor, with the socket that its workers expect."""

    def __init__(self, directory: Path) -> None:
        self.endpoint = f"ipc://{directory}/worker.sock"
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(self.endpoint)
        self.supervisor = Supervisor(self.endpoint, 0.5, directory)
        self.said_hello: set[str] = set()

    def start(self, worker_id: str, *, spare: bool = False) -> int:
        """Its pid, once it has connected."""
        pid = self.supervisor.start(StartWorker(worker_id, spare))
        deadline = time.monotonic() + SECONDS
        while worker_id not in self.said_hello:
            left = max(0, int((deadline - time.monotonic()) * 1000))
            assert self.socket.poll(left), f"{worker_id} does not connect"
            identity, *frames = self.socket.recv_multipart()
            if isinstance(decode(frames).body, Hello):
                self.said_hello.add(identity.decode())
        return pid

    def order(self, worker_id: str, **options: Any) -> None:
        """Make it do what loud_engine offers."""
        frames = encode(Assign("loud", "", "echo", LOUD, options))
        self.socket.send_multipart([worker_id.encode(), *frames])

    def wait(self, exits: int = 1, seconds: float = SECONDS) -> list[tuple[str, Exit]]:
        """Serve the supervisor's descriptors, as the broker's loop does, until so many exits are reported."""
        taken: list[tuple[str, Exit]] = []
        deadline = time.monotonic() + seconds
        while len(taken) < exits:
            taken += self.serve(max(0.0, deadline - time.monotonic()))
            assert len(taken) >= exits or time.monotonic() < deadline, f"{len(taken)} exits after {seconds} s"
        return taken

    def serve(self, seconds: float) -> list[tuple[str, Exit]]:
        """One turn of the loop; the exits that it took."""
        poller = select.poll()
        poller.register(self.supervisor.exits_fd, select.POLLIN)
        outputs = self.supervisor.output_fds
        for fd in outputs:
            poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(seconds * 1000)]
        for fd in ready:
            if fd in outputs:
                self.supervisor.read_output(outputs[fd])
        return self.supervisor.take_exits() if self.supervisor.exits_fd in ready else []

    def close(self) -> None:
        self.supervisor.close()
        self.socket.close()
        self.context.term()


@pytest.fixture
def yard() -> Iterator[Yard]:
    # Not pytest's tmp_path: socket paths are limited to about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        yard = Yard(Path(directory))
        yield yard
        yard.close()


def child_of(path: Path) -> psutil.Process:
    """The process whose pid the loud engine has written there."""
    wait_until(path.exists, SECONDS, "the grandchild's pid")
    return psutil.Process(int(path.read_text()))


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; an orphan may stay a zombie until init has time for it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---- exits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_an_exit_code(yard: Yard, code: int) -> None:
    pid = yard.start("w1")
    assert yard.supervisor.worker_ids == ["w1"]
    assert psutil.pid_exists(pid)
    before = time.time()
    yard.order("w1", exit=code)
    [(worker_id, exit_)] = yard.wait()
    assert (worker_id, exit_.code, exit_.signal) == ("w1", code, None)
    assert before <= exit_.at <= time.time()
    assert yard.supervisor.worker_ids == []
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_signal(yard: Yard, number: signal.Signals) -> None:
    pid = yard.start("w1")
    os.kill(pid, number)
    [(_, exit_)] = yard.wait()
    assert (exit_.code, exit_.signal) == (None, number.name)


@pytest.mark.skipif(sys.platform != "linux", reason="signals without a name")
def test_a_signal_without_a_name(yard: Yard) -> None:
    pid = yard.start("w1")
    os.kill(pid, signal.SIGRTMIN + 3)
    [(_, exit_)] = yard.wait()
    assert exit_.signal == f"SIG{signal.SIGRTMIN + 3}"


def test_an_exit_is_reported_within_50_ms(yard: Yard) -> None:
    delays = []
    for n in range(5):
        pid = yard.start(f"w{n}")
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        yard.wait()
        delays.append(time.monotonic() - killed_at)
    assert statistics.median(delays) < 0.05, delays


def test_a_stopped_process_can_be_killed(yard: Yard) -> None:
    pid = yard.start("w1")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    yard.supervisor.kill("w1")
    [(_, exit_)] = yard.wait()
    assert exit_.signal == "SIGKILL"


def test_several_exits_at_once_are_reported_each_once(yard: Yard) -> None:
    for n in range(3):
        yard.start(f"w{n}")
    for n in range(3):
        yard.supervisor.kill(f"w{n}")
    assert sorted(worker_id for worker_id, _ in yard.wait(exits=3)) == ["w0", "w1", "w2"]
    assert yard.serve(0.0) == []


def test_a_kill_after_the_exit_does_nothing(yard: Yard) -> None:
    pid = yard.start("w1")
    yard.order("w1", exit=3)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    yard.supervisor.kill("w1")
    [(_, exit_)] = yard.wait()
    assert exit_.code == 3
    yard.supervisor.kill("w1")
    yard.supervisor.kill("nobody")


def test_what_the_system_refuses_is_raised(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(OSError, match="No such file"):
        yard.supervisor.start(StartWorker("w1", spare=False))
    assert yard.supervisor.worker_ids == []


# ---- families -----------------------------------------------------------------------------------------------------


def test_a_worker_leads_a_process_group_of_its_own(yard: Yard) -> None:
    pid = yard.start("w1")
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == os.getsid(0)


def test_a_kill_takes_the_children_along(yard: Yard, tmp_path: Path) -> None:
    yard.start("w1")
    yard.order("w1", child=str(tmp_path / "pid"))
    child = child_of(tmp_path / "pid")
    yard.supervisor.kill("w1")
    yard.wait()
    wait_until(lambda: has_ended(child))


def test_so_does_an_exit(yard: Yard, tmp_path: Path) -> None:
    yard.start("w1")
    yard.order("w1", child=str(tmp_path / "pid"), exit=5)
    child = child_of(tmp_path / "pid")
    [(_, exit_)] = yard.wait()
    assert exit_.code == 5
    wait_until(lambda: has_ended(child))


def test_an_exit_is_reported_once_though_a_grandchild_holds_the_pipe(yard: Yard, tmp_path: Path) -> None:
    yard.start("w1")
    yard.order("w1", text="last words\n", child=str(tmp_path / "pid"), detached=True, exit=5)
    child = child_of(tmp_path / "pid")
    try:
        started = time.monotonic()
        [(_, exit_)] = yard.wait()
        assert time.monotonic() - started < 8.0  # the grandchild would hold it for minutes
        assert (exit_.code, exit_.stderr_tail) == (5, "last words")
        assert child.is_running()
        assert yard.supervisor.output_fds == {}
        assert yard.serve(0.1) == []
    finally:
        child.kill()
        wait_until(lambda: has_ended(child))


def test_close_leaves_no_process_and_no_descriptor(yard: Yard) -> None:
    before = psutil.Process().num_fds()
    pids = [yard.start(f"w{n}") for n in range(2)]
    supervisor, yard.supervisor = yard.supervisor, Supervisor(yard.endpoint, 0.5, Path())
    supervisor.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    yard.socket.poll(100)  # lets zmq notice that its peers have gone
    wait_until(lambda: psutil.Process().num_fds() <= before, what="descriptors closed")


def test_fifty_processes_leave_no_descriptor(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    true = shutil.which("true")
    assert true is not None
    monkeypatch.setattr(sys, "executable", true)  # fifty processes that end at once
    yard.supervisor.start(StartWorker("first", spare=False))
    yard.wait()
    before = psutil.Process().num_fds()
    for n in range(50):
        yard.supervisor.start(StartWorker(f"w{n}", spare=False))
        assert yard.wait()[0][1].code == 0
    assert psutil.Process().num_fds() == before


# ---- what they print ----------------------------------------------------------------------------------------------


def test_the_last_lines_are_kept(yard: Yard) -> None:
    yard.start("w1")
    yard.order("w1", lines=100, exit=1)
    [(_, exit_)] = yard.wait()
    assert exit_.stderr_tail == "\n".join(f"line {n}" for n in range(100 - TAIL_LINES, 100))
    assert exit_.describe() == "exit code 1: line 99"


def test_a_lot_of_output_blocks_nobody(yard: Yard) -> None:
    yard.start("w1")
    yard.order("w1", lines=200_000, exit=1)
    [(_, exit_)] = yard.wait()
    assert exit_.stderr_tail.endswith("line 199999")


def test_a_long_line_is_cut(yard: Yard) -> None:
    yard.start("w1")
    yard.order("w1", text="x" * 10_000 + "\n", exit=1)
    [(_, exit_)] = yard.wait()
    assert exit_.stderr_tail == "x" * 500


def test_last_words_need_no_end_of_line(yard: Yard, tmp_path: Path) -> None:
    yard.start("w1")
    yard.order("w1", text="Assertion failed", child=str(tmp_path / "pid"), detached=True, exit=1)
    child = child_of(tmp_path / "pid")
    try:
        [(_, exit_)] = yard.wait()
        assert exit_.stderr_tail == "Assertion failed"
    finally:
        child.kill()
        wait_until(lambda: has_ended(child))


def test_a_line_without_end_does_not_grow_the_broker(yard: Yard) -> None:
    """A progress bar is one such line; what a terminal would show of it is kept."""
    yard.start("w1")
    yard.order("w1", text="\r49 %\r50 %" * 1_000_000, exit=1)
    before = psutil.Process().memory_info().rss
    [(_, exit_)] = yard.wait()
    assert exit_.stderr_tail == "50 %"
    assert psutil.Process().memory_info().rss - before < 4 * MIB


def test_a_worker_that_closes_its_output_is_no_dead_worker(yard: Yard) -> None:
    pid = yard.start("w1")
    yard.order("w1", text="before", mute=True)
    wait_until(lambda: yard.serve(0.05) == [] and not yard.supervisor.output_fds, SECONDS)
    assert yard.supervisor.worker_ids == ["w1"]
    assert psutil.pid_exists(pid)
    yard.supervisor.kill("w1")
    [(_, exit_)] = yard.wait()
    assert exit_.stderr_tail == "before"


def test_a_python_traceback_ends_in_the_tail(yard: Yard) -> None:
    yard.start("w1")
    frames = encode(Assign("m", "", "echo", "tests.broker.processes.loud_engine:NoSuchEngine"))
    yard.socket.send_multipart([b"w1", *frames])
    yard.socket.send_multipart([b"w1", *encode(Shutdown())])  # else it waits some seconds for it
    [(_, exit_)] = yard.wait()
    assert exit_.code == 1
    assert "NoSuchEngine" in exit_.stderr_tail.splitlines()[-1]


def test_the_checkout_is_found_from_any_folder(yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    yard.start("w1", spare=False)
    yard.order("w1", exit=0)
    assert yard.wait()[0][1].code == 0


def test_workers_ask_apples_driver_for_patience(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"
    monkeypatch.delenv(variable, raising=False)
    yard.start("w1", spare=False)
    assert psutil.Process(yard.supervisor._children["w1"].process.pid).environ()[variable] == "1"
    monkeypatch.setenv(variable, "0")  # whoever sets it decides
    yard.start("w2", spare=False)
    assert psutil.Process(yard.supervisor._children["w2"].process.pid).environ()[variable] == "0"


def test_a_worker_ends_by_itself_when_its_stdin_ends(yard: Yard) -> None:
    """What happens to it when the broker dies."""
    yard.start("w1")
    process: subprocess.Popen[bytes] = yard.supervisor._children["w1"].process
    assert process.stdin is not None
    process.stdin.close()
    [(_, exit_)] = yard.wait(seconds=5.0)
    assert exit_.code == 1
