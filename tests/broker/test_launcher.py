"""The real broker, its loop and sockets, with a launcher that starts no process of this machine."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from broker.assembly import run_broker
from broker.runtime import RuntimeDir
from broker.settings import BrokerSettings, ModelSettings
from broker.wire.body import Body
from broker.wire.codec import decode, encode
from broker.wire.from_gateways import InferenceRequest, Kill, Status, Unload
from broker.wire.from_peers import Hello
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Outputs, decode_outputs
from tests.broker.thread_launcher import ThreadLauncher
from tests.service import wait_until

SECONDS = 20
MILLISECONDS = 1000 * SECONDS
MODEL = "m"


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


class House:
    """A broker in a thread, and a gateway that speaks to it."""

    def __init__(self, directory: Path, late_failures: int = 0) -> None:
        settings = BrokerSettings(
            runtime_dir=directory,
            state_dir=directory / "state",
            models_dir=directory,
            hub_dir=directory / "hub",
            models={MODEL: ModelSettings(type="echo", engine="played:Worker")},
            warm_spares=0,
            heartbeat_timeout_seconds=600,  # the threads send none
            stall_timeout_seconds=600,
            memory_sample_seconds=0.05,
        )
        self._runtime = RuntimeDir(directory)
        self.launcher = ThreadLauncher(self._runtime.worker_endpoint, late_failures)
        self._stop = Stop()
        self._thread = threading.Thread(
            target=lambda: run_broker(settings, self._runtime, self.launcher, self._stop, 8 << 30), name="broker"
        )
        self._thread.start()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._identity = os.urandom(8)
        self._socket.identity = self._identity
        self._socket.linger = 0
        self._socket.connect(self._runtime.gateway_endpoint)
        self._socket.send_multipart(encode(Hello()))
        self._asked = 0

    def ask(self, body: Body) -> list[tuple[int, dict[str, Any]]]:
        """All outputs of one request: (kind, body)."""
        self._asked += 1
        request_id = self._identity + self._asked.to_bytes(8, "big")
        self._socket.send_multipart(encode(body, request_id))
        outputs: list[tuple[int, dict[str, Any]]] = []
        while not outputs or outputs[-1][0] == PARTIAL:
            assert self._socket.poll(MILLISECONDS), f"{body} has no end: {outputs}"
            answer = decode(self._socket.recv_multipart()).body
            if isinstance(answer, Outputs):
                outputs += [(o.kind, o.body) for o in decode_outputs(answer) if o.request_id == request_id]
        return outputs

    def generate(self, text: str) -> list[tuple[int, dict[str, Any]]]:
        return self.ask(InferenceRequest(MODEL, text.encode()))

    def status(self) -> dict[str, Any]:
        [(_, body)] = self.ask(Status())
        [entry] = body["models"]
        model: dict[str, Any] = entry
        return model

    def close(self) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
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
