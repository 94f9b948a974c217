"""A client that disconnects frees its place in the worker within one decode step, not at the end of its answer."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import ECHO, MISBEHAVING, PACED
from tests.service import Service, Stream, chat_body, wait_until
from tests.timing import assert_below

STEP_SECONDS = 0.25
STEPPING = ECHO | {"options": {"delay_seconds": STEP_SECONDS}}


@contextlib.contextmanager
def client(service: Service, model_id: str, **fields: Any) -> Iterator[socket.socket]:
    """A client that sends its request and disconnects at the end of the block."""
    body = json.dumps(chat_body(model_id, "Hello", **fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(head + body)
        yield connection


def wait_for(service: Service, model_id: str, seconds: float = 10.0, **figures: Any) -> None:
    """Wait until the status of this model has these figures."""

    def reached() -> bool:
        entry = service.model(model_id)
        return all(entry.get(name) == value for name, value in figures.items())

    wait_until(reached, seconds, f"{model_id} with {figures}")


def seconds_until_free(service: Service, *, stream: bool) -> float:
    """Seconds from a client's disconnect to the end of its work."""
    with client(service, "stepping", max_tokens=4000, stream=stream) as connection:
        wait_for(service, "stepping", in_flight=1)
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200"
        left_at = time.monotonic()
    wait_for(service, "stepping", in_flight=0)
    return time.monotonic() - left_at


def test_a_place_is_free_after_one_step(make_service: Callable[..., Service]) -> None:
    service = make_service(models={"stepping": STEPPING})
    assert service.load("stepping").status_code == 200
    for stream in (True, False):
        assert_below(STEP_SECONDS + 0.75, partial(seconds_until_free, service, stream=stream), tries=4)
    pid = service.model("stepping")["pid"]
    assert service.chat("stepping", "Next", max_tokens=1).status_code == 200
    assert service.model("stepping")["pid"] == pid


def test_a_client_that_waits_for_a_load_can_disconnect(make_service: Callable[..., Service], tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    held = MISBEHAVING | {"options": {"on_load": "hold", "hold": str(hold), **PACED}}
    service = make_service(models={"slow-load": held, "bad": MISBEHAVING}, broker={"max_models": 1})
    with client(service, "slow-load"), client(service, "slow-load", stream=True):
        wait_for(service, "slow-load", state="loading", queued=2)
    wait_for(service, "slow-load", state="loading", queued=0)
    hold.unlink()
    # No client owns the load: it continues and serves the next client.
    wait_for(service, "slow-load", state="ready", in_flight=0, restarts=0)
    assert service.chat("slow-load", "Next").status_code == 200

    with client(service, "slow-load", max_tokens=100_000, stream=True):
        wait_for(service, "slow-load", in_flight=1)
        with client(service, "bad"):
            wait_for(service, "bad", state="queued", queued=1)  # there is no room while the other model is busy
        wait_for(service, "bad", state="unloaded")
    wait_for(service, "slow-load", state="ready", in_flight=0)  # it was not evicted


def test_twenty_disconnect_at_once_and_one_streams_on(shared: Service) -> None:
    expected = shared.chat("tiny-a", max_tokens=2000).json()["choices"][0]["message"]["content"]
    survivors: list[Stream] = []

    def read() -> None:
        with shared.stream("tiny-a", max_tokens=2000) as stream:
            survivors.append(stream)
            stream.finish()

    reader = threading.Thread(target=read)
    with contextlib.ExitStack() as twenty:
        for number in range(20):
            twenty.enter_context(client(shared, "tiny-a", max_tokens=8000, stream=number % 2 == 0))
        wait_for(shared, "tiny-a", in_flight=20)
        reader.start()
        wait_for(shared, "tiny-a", in_flight=21)
    # Long before any of the twenty would have its 8,000 tokens; the one that streams on may have its own.
    wait_until(lambda: shared.model("tiny-a")["in_flight"] <= 1, what="the end of what the twenty asked for")
    reader.join(40)
    assert survivors[0].done
    assert survivors[0].error is None
    assert survivors[0].text == expected
    assert shared.model("tiny-a")["in_flight"] == 0
    assert "Traceback" not in shared.log("gateway") + shared.log("broker")
