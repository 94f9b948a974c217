"""The real broker, its loop and sockets, with a launcher that starts no process of this machine."""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from broker.assembly import run_broker
from broker.models.places import FileSystem
from broker.policy.pressure import Pressure
from broker.processes.awake import Awake
from broker.processes.system import SystemMemory
from broker.runtime import RuntimeDir
from broker.settings import BrokerSettings, ModelSettings
from broker.wire.body import Body
from broker.wire.clock import Clock
from broker.wire.codec import decode, encode
from broker.wire.from_gateways import Cancel, InferenceRequest, Kill, Load, Logs, Status, Unload, Unpin, Watch
from broker.wire.from_peers import Hello
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, Outputs, decode_outputs
from tests.broker.models.model_folders import make_model
from tests.broker.models.test_names import MACOS
from tests.broker.processes.test_awake import SLEEP
from tests.broker.thread_launcher import MIB, ThreadLauncher
from tests.service import wait_until

SECONDS = 20
MILLISECONDS = 1000 * SECONDS
MODEL, OTHER = "m", "other"


class Stop:
    """What a signal is for the broker's process."""

    def __init__(self) -> None:
        self._readable, self._writable = socket.socketpair()

    def fileno(self) -> int:
        return self._readable.fileno()

    def take(self) -> None:
        self._readable.recv(64)

    def set(self) -> None:
        self._writable.send(b"x")

    def close(self) -> None:
        self._readable.close()
        self._writable.close()


class PlayedSystem:
    """A machine of 8 GiB that says what a test wants."""

    total_bytes = 8 << 30
    available_bytes = 3 << 30
    has_metal = False

    def __init__(self) -> None:
        self.pressure = Pressure.NORMAL

    def sample(self) -> SystemMemory:
        return SystemMemory(self.pressure)


class House:
    """A broker in a thread, and a gateway that speaks to it."""

    def __init__(
        self,
        directory: Path,
        *,
        late_failures: int = 0,
        clock: Clock | None = None,
        heartbeat_timeout: float = 600.0,
        file_system: FileSystem | None = None,
        preload: list[str] | None = None,
        awake: Awake | None = None,
    ) -> None:
        settings = BrokerSettings(
            runtime_dir=directory,
            state_dir=directory / "state",
            models_dir=directory,
            hub_dir=directory / "hub",
            models=dict.fromkeys((MODEL, OTHER), ModelSettings(type="echo", engine="played:Worker")),
            max_memory_gb=1.0,
            preload_models=preload or [],
            warm_spares=0,
            heartbeat_timeout_seconds=heartbeat_timeout,  # the threads send none
            stall_timeout_seconds=600,
            memory_sample_seconds=0.05,
        )
        self._runtime = RuntimeDir(directory)
        self.launcher = ThreadLauncher(self._runtime.worker_endpoint, late_failures)
        self._stop = Stop()
        self.system = PlayedSystem()
        self.failure: str | None = None
        self.lost_starter = False

        def run() -> None:
            self.failure = run_broker(
                settings,
                self._runtime,
                self.launcher,
                self._stop,
                self.system,
                has_lost_starter=lambda: self.lost_starter,
                clock=clock,
                file_system=file_system,
                awake=awake,
            )

        self._thread = threading.Thread(target=run, name="broker", daemon=True)
        self._thread.start()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._identity = os.urandom(8)
        self._socket.identity = self._identity
        self._socket.linger = 0
        self._socket.connect(self._runtime.gateway_endpoint)
        self._socket.send_multipart(encode(Hello()))
        self._asked = 0

    def tell(self, body: Body) -> bytes:
        """Send a request; its id."""
        self._asked += 1
        request_id = self._identity + self._asked.to_bytes(8, "big")
        self._socket.send_multipart(encode(body, request_id))
        return request_id

    def cancel(self, request_id: bytes) -> None:
        self._socket.send_multipart(encode(Cancel(), request_id))

    def next_outputs(self) -> list[Output]:
        """The next outputs for any request."""
        while True:
            assert self._socket.poll(MILLISECONDS), "there is no output"
            answer = decode(self._socket.recv_multipart()).body
            if isinstance(answer, Outputs):
                return decode_outputs(answer)

    def ask(self, body: Body) -> list[tuple[int, dict[str, Any]]]:
        """All outputs of one request: (kind, body)."""
        request_id = self.tell(body)
        outputs: list[tuple[int, dict[str, Any]]] = []
        while not outputs or outputs[-1][0] == PARTIAL:
            outputs += [(o.kind, o.body) for o in self.next_outputs() if o.request_id == request_id]
        return outputs

    def generate(self, text: str, model: str = MODEL) -> list[tuple[int, dict[str, Any]]]:
        return self.ask(InferenceRequest(model, text.encode()))

    def whole_status(self) -> dict[str, Any]:
        [(_, body)] = self.ask(Status())
        return body

    def status(self, model: str = MODEL) -> dict[str, Any]:
        [entry] = [m for m in self.whole_status()["models"] if m["model_id"] == model]
        found: dict[str, Any] = entry
        return found

    def ends(self) -> None:
        """Wait until the broker has ended by itself."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self._stop.set()
        self.ends()
        self._socket.close()
        self._context.term()
        self._stop.close()
        self._runtime.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's tmp_path: socket paths are limited to about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="mlxb-") as path:
        yield Path(path)


@pytest.fixture
def house(directory: Path) -> Iterator[House]:
    house = House(directory)
    yield house
    house.close()


def test_the_log_of_a_model_is_followed_and_read(house: House) -> None:
    follow = house.tell(Logs(MODEL, follow=True))
    assert house.ask(Logs(MODEL)) == [(FINAL, {"lines": []})]
    house.tell(Load(MODEL))
    lines: list[list[Any]] = []
    while len(lines) < 2:
        for output in house.next_outputs():
            if output.request_id == follow:
                assert output.kind == PARTIAL
                lines += output.body["lines"]
    assert [text for _at, _pid, text in lines] == [f"broker: loads {MODEL}", f"broker: {MODEL} is ready"]
    assert house.ask(Logs(MODEL, 1)) == [(FINAL, {"lines": lines[1:]})]
    house.cancel(follow)
    [end] = house.next_outputs()
    assert (end.request_id, end.kind, end.body["code"]) == (follow, ERROR, "cancelled")


def test_a_request_is_served(house: House) -> None:
    assert house.generate("hello") == [(PARTIAL, {"text": "hello"}), (FINAL, {"text": "hello"})]
    wait_until(lambda: house.status()["rss_bytes"] == 1 << 20, what="a sample")
    assert (house.status()["state"], house.status()["pid"]) == ("ready", None)


def test_a_death_ends_its_request_and_the_next_one_gets_a_new_worker(house: House) -> None:
    house.generate("hello")
    partial, (kind, failure) = house.generate("die")
    assert partial == (PARTIAL, {"text": "die"})
    assert (kind, failure["code"], failure["retryable"]) == (ERROR, "worker_died", True)
    assert "out of luck" in failure["message"]
    assert house.generate("again")[-1] == (FINAL, {"text": "again"})
    entry = house.status()
    assert (entry["restarts"], entry["last_exit"]["code"], len(house.launcher.started)) == (1, 3, 2)


def test_a_start_that_fails_late_is_an_exit_like_any_other(directory: Path) -> None:
    house = House(directory, late_failures=1)
    try:
        assert house.generate("hello")[-1] == (FINAL, {"text": "hello"})
        assert len(house.launcher.started) == 2
        assert house.status()["last_exit"]["stderr_tail"] == "that machine has no room"
    finally:
        house.close()


def test_kill_and_unload_end_the_worker(house: House) -> None:
    house.generate("hello")
    assert house.ask(Kill(MODEL)) == [(FINAL, {"model_id": MODEL, "pid": None})]
    house.generate("hello")
    assert house.ask(Unload(MODEL))[-1][0] == FINAL
    assert house.launcher.worker_ids == []


def test_an_hour_in_which_nothing_ran_ends_nobody(directory: Path) -> None:
    jumped = 0.0
    house = House(directory, clock=Clock(lambda: time.monotonic() + jumped), heartbeat_timeout=30.0)
    try:
        house.generate("hello")
        jumped = 3600.0
        assert house.generate("again")[-1] == (FINAL, {"text": "again"})
        uptime = house.ask(Status())[0][1]["uptime_seconds"]
        assert uptime < 3600
        assert (house.status()["state"], len(house.launcher.started)) == ("ready", 1)
    finally:
        house.close()


def test_a_worker_that_is_silent_while_the_broker_runs_is_ended(directory: Path) -> None:
    house = House(directory, clock=Clock(), heartbeat_timeout=1.5)
    try:
        house.generate("hello")
        wait_until(lambda: house.status()["last_exit"] is not None, what="the end of a silent worker")
    finally:
        house.close()


def test_every_spelling_that_the_file_system_takes_reaches_the_one_model(directory: Path) -> None:
    make_model(directory / "Tiny")
    house = House(directory, file_system=MACOS, preload=["TINY"])
    try:
        assert house.ask(InferenceRequest("tiny", b"hello"))[-1] == (FINAL, {"text": "hello"})
        assert (house.status("Tiny")["model_id"], house.status("Tiny")["pinned"]) == ("Tiny", True)
        assert house.ask(Load("tINY"))[-1][1]["model_id"] == "Tiny"
        house.tell(Watch("tiny"))
        assert house.next_outputs()[0].body["model_id"] == "Tiny"
        assert house.ask(Unpin("tiny"))[-1] == (FINAL, {"model_id": "Tiny"})
        assert house.ask(Kill("tiny"))[-1] == (FINAL, {"model_id": "Tiny", "pid": None})
        assert house.ask(InferenceRequest("tINy", b"again"))[-1] == (FINAL, {"text": "again"})
        assert house.ask(Unload("TINY"))[-1] == (FINAL, {"model_id": "Tiny"})
        assert len(house.launcher.started) == 2
    finally:
        house.close()


def test_the_machine_is_kept_awake_while_a_request_runs(directory: Path) -> None:
    def keepers() -> list[psutil.Process]:
        found = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                found += [child] if child.name() == "sleep" else []
        return found

    house = House(directory, awake=Awake([SLEEP, "600"]))
    try:
        house.generate("hello")
        wait_until(lambda: not keepers(), what="an idle broker")
        house.tell(InferenceRequest(MODEL, b"wait"))
        wait_until(keepers, what="a process that keeps the machine awake")
        house.ask(Kill(MODEL))
        wait_until(lambda: not keepers(), what="its end")
        house.tell(InferenceRequest(MODEL, b"wait"))
        wait_until(keepers, what="the next one")
    finally:
        house.close()
    assert not keepers()


def test_sockets_that_are_deleted_are_made_anew(directory: Path, house: House) -> None:
    house.generate("hello")
    for name in ("gateway.sock", "worker.sock", "lock"):
        (directory / name).unlink()
    house.ask(Unload(MODEL))
    # The next worker has to find its socket.
    assert house.generate("again")[-1] == (FINAL, {"text": "again"})
    assert {"gateway.sock", "worker.sock", "lock"} <= {path.name for path in directory.iterdir()}


def _put_a_folder_in_place_of(path: Path) -> None:
    while not path.is_dir():
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # the broker was faster
            path.mkdir()


def test_a_broker_that_cannot_make_its_socket_anew_ends_with_a_reason(directory: Path) -> None:
    house = House(directory)
    try:
        house.generate("hello")
        _put_a_folder_in_place_of(directory / "worker.sock")
        house.ends()
        assert house.failure is not None
        assert f"ipc://{directory}/worker.sock" in house.failure
    finally:
        house.close()


def test_a_broker_whose_directory_another_has_taken_ends_with_a_reason(directory: Path) -> None:
    for name in ("first", "second"):
        (directory / name).mkdir()
    run = directory / "run"
    run.symlink_to("first")
    house, second = House(run), RuntimeDir(directory / "second")
    try:
        (directory / "new").symlink_to("second")
        (directory / "new").replace(run)  # in one step, so that the first cannot be faster
        house.ends()
        assert house.failure is not None
        assert house.failure.startswith(f"another broker (pid {os.getpid()}) is running in {run}")
    finally:
        second.close()
        house.close()


def test_a_broker_that_has_lost_its_starter_ends(house: House) -> None:
    house.generate("hello")
    house.lost_starter = True
    house.ends()
    assert (house.failure, house.launcher.worker_ids) == (None, [])


# ---- memory -------------------------------------------------------------------------------------------------------


def test_a_larger_share_comes_from_what_another_worker_gives_back(house: House) -> None:
    assert house.ask(Load(OTHER))[-1][0] == FINAL  # pinned, so it does not have to leave
    assert house.generate("need 900", OTHER)[-1][1]["share"] >= 900 * MIB
    assert house.generate("need 600")[-1][1]["share"] >= 600 * MIB
    shares = [house.status(model)["share_bytes"] for model in (MODEL, OTHER)]
    assert 1000 * MIB < sum(shares) <= house.whole_status()["max_memory_bytes"] == 1024 * MIB
    assert house.status(OTHER)["state"] == "ready"


def test_a_system_that_runs_short_is_seen(house: House) -> None:
    house.generate("hello")
    house.system.pressure = Pressure.CRITICAL
    wait_until(lambda: house.whole_status()["pressure"] == "critical", what="the pressure")
    house.system.pressure = Pressure.NORMAL
    wait_until(lambda: house.whole_status()["pressure"] == "normal", what="the end of it")


def test_a_setting_above_what_metal_may_use_is_obeyed_with_a_warning(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.launcher.working_set_bytes = 512 * MIB
    house.generate("hello")
    status = house.whole_status()
    assert (status["max_memory_bytes"], status["budget_origin"]) == (1024 * MIB, "setting")
    assert status["working_set_bytes"] == 512 * MIB
    assert "more than Metal may use on this machine, 0.50 GiB" in caplog.text
