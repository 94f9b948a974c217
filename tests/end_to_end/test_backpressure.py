"""Clients that never read: their queues are bounded, their work ends, and other clients do not notice."""

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.conftest import ECHO
from tests.service import Service, chat_body, wait_until
from tests.timing import assert_below

READERS = 8
TOKENS = 200
# The time of one step, so that the test does not measure the speed of this machine.
STEP_SECONDS = 0.005
PACED = ECHO | {"options": {"delay_seconds": STEP_SECONDS}}


def deaf_client(service: Service) -> socket.socket:
    """Asks for more output than any buffer on the way holds, and never reads."""
    body = json.dumps(chat_body("paced", "Hello", max_tokens=1_000_000, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the system takes megabytes in for it
    connection.settimeout(10)
    connection.connect(("127.0.0.1", service.port))
    connection.sendall(head + body)
    return connection


def tokens_per_second(service: Service, pool: ThreadPoolExecutor) -> float:
    """Seconds until all readers together have their whole answers."""
    began = time.monotonic()

    def read(_: int) -> None:
        with service.stream("paced", "Hi", max_tokens=TOKENS) as stream:
            assert stream.finish().done
            assert (stream.error, stream.text) == (None, "Hi" * TOKENS)

    for _ in pool.map(read, range(READERS)):
        pass
    return READERS * TOKENS / (time.monotonic() - began)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("deaf", [16, pytest.param(50, marks=pytest.mark.slow)])
def test_clients_that_never_read_take_nothing_from_others(make_service: Callable[..., Service], deaf: int) -> None:
    service = make_service(models={"paced": PACED})
    assert service.load("paced").status_code == 200
    processes = {
        name: psutil.Process(process.pid)
        for name, process in (("gateway", service.gateway), ("broker", service.broker))
        if process is not None
    }

    def in_flight() -> int:
        return int(service.model("paced")["in_flight"])

    def slower() -> float:
        """How many times as long others wait for their tokens while the deaf clients are served as before and after."""
        with ThreadPoolExecutor(READERS) as pool, contextlib.ExitStack() as stack:
            alone = [tokens_per_second(service, pool) for _ in range(3)]
            before = {name: process.memory_info().rss for name, process in processes.items()}
            told = service.log("gateway").count("reads too slowly")
            for _ in range(deaf):
                stack.enter_context(contextlib.closing(deaf_client(service)))
            wait_until(lambda: in_flight() == deaf, 20.0, "the deaf clients' requests")
            beside = []
            deadline = time.monotonic() + 180.0  # a slow machine fills their buffers slowly
            while in_flight() and time.monotonic() < deadline:
                beside.append(tokens_per_second(service, pool))
            assert in_flight() == 0, "their work goes on"
            growth = {name: process.memory_info().rss - before[name] for name, process in processes.items()}
            alone += [tokens_per_second(service, pool) for _ in range(3)]
        assert service.log("gateway").count("reads too slowly") - told == deaf
        assert growth["gateway"] < deaf * 2**20
        assert growth["broker"] < 4 * 2**20
        return statistics.median(alone) / statistics.median(beside)

    assert_below(1 / 0.9, slower)
