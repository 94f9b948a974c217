"""A model that is faster than the gateway: it is slowed down, no queue grows, and other clients do not notice."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil

from broker.wire.outputs import WINDOW
from tests.conftest import ECHO
from tests.service import Service, chat_body, free_port, wait_until

STEP_SECONDS = 0.01
PACED = ECHO | {"options": {"delay_seconds": STEP_SECONDS}}
TOKENS = 300


class Flood:
    """An endless streamed chat from an instant model, read as fast as a client can, until `stop`."""

    def __init__(self, service: Service) -> None:
        self.bytes = 0
        self._client = httpx.Client(base_url=service.url, timeout=30.0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        body = chat_body("flood", "Hello", max_tokens=10**9, stream=True)
        with self._client, self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            for chunk in response.iter_raw():
                self.bytes += len(chunk)
                if self._stopped.is_set():
                    return

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def flooding(service: Service) -> Iterator[Flood]:
    flood = Flood(service)
    try:
        wait_until(lambda: flood.bytes, 15, "the flood")
        yield flood
    finally:
        flood.stop()


def read_paced(service: Service) -> float:
    """Seconds from the request to the end of the stream."""
    began = time.monotonic()
    with service.stream("paced", "Hi", max_tokens=TOKENS) as stream:
        assert stream.finish().done
        assert (stream.error, stream.text) == (None, "Hi" * TOKENS)
    return time.monotonic() - began


def test_a_flood_fills_no_queue_and_delays_no_other_client(make_service: Callable[..., Service]) -> None:
    service = make_service(models={"flood": ECHO, "paced": PACED})
    assert service.load("paced").status_code == 200
    assert service.broker is not None
    alone = read_paced(service)
    broker = psutil.Process(service.broker.pid)
    before = broker.memory_info().rss
    with flooding(service) as flood:
        beside = read_paced(service)
        read = flood.bytes
        wait_until(lambda: flood.bytes > read, 10, "more of the flood: it is slowed down, not ended")
    assert beside < 2 * alone + 1.0, f"{beside:.2f} s, alone {alone:.2f} s"
    assert broker.memory_info().rss - before < 4 * 2**20
    assert "has gone" not in service.log("broker")


def test_a_stopped_gateway_blocks_no_model_for_the_clients_of_another(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(models={"flood": ECHO})
    first = service.gateway
    assert first is not None
    with flooding(service):
        service.port = free_port()
        service.environment["MLX_BROKER_PORT"] = str(service.port)
        old, service.client = service.client, service.second_client()
        service.start_gateway()
        os.kill(first.pid, signal.SIGSTOP)
        try:
            tokens = 20 * WINDOW
            answer = service.chat("flood", "Hi", max_tokens=tokens)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == tokens
        finally:
            os.kill(first.pid, signal.SIGCONT)
    old.close()
    first.terminate()
    first.wait(10)
