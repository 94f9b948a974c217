"""Time to the first token of one stream, beside mlx_lm.server on the same model."""

import contextlib
import http.client
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service import START_SECONDS, Service, chat_body, free_port, wait_until

REQUESTS = 24
# On a busy machine a request waits for a core once in their process and once in each of our three, so other work costs
# us more. The quietest of a few rounds decides, with this much allowed for noise.
ROUNDS = 5
NOISE = 1.25

FIRST_TEXT = re.compile(rb'"content": ?"[^"]')


@contextlib.contextmanager
def mlx_lm_server(model: Path, log: Path, environment: dict[str, str]) -> Iterator[int]:
    """Start mlx-lm's own server for this model and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm.server", "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def healthy() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    try:
        wait_until(healthy, START_SECONDS, log.read_text)
        yield port
    finally:
        process.kill()
        process.wait()


def first_token_is_text(service: Service, prompt: str) -> bool:
    """Whether the answer begins with a character of one token: both servers hold incomplete characters back."""
    first = service.chat("tiny-a", prompt, max_tokens=1).json()["choices"][0]["message"]["content"]
    return first.isascii() and first.isprintable() and first not in {"", '"', "\\"}


def milliseconds_to_first_text(port: int, model_id: str, prompt: str) -> float:
    """Seconds from before the connection to the first token; reads the rest of the stream, so that no work goes on."""
    body = json.dumps(chat_body(model_id, prompt, max_tokens=8, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    started_at = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        received = b""
        while not FIRST_TEXT.search(received):
            received += (data := connection.recv(65536))
            assert data, received
        elapsed = time.perf_counter() - started_at
        while b"data: [DONE]" not in received:
            received += (data := connection.recv(65536))
            assert data, received
    return elapsed * 1000


@pytest.mark.slow  # beside other tests it would measure those
@pytest.mark.timeout(120)
def test_the_first_token_comes_as_soon_as_from_mlx_lms_server(
    make_service: Callable[..., Service], models_dir: Path, tmp_path: Path
) -> None:
    service = make_service()
    # Never the same prompt twice: mlx_lm.server caches prompts.
    prompts = (n for n in map(str, itertools.count()) if first_token_is_text(service, n))
    medians = []
    with mlx_lm_server(models_dir / "tiny-a", tmp_path / "log", service.environment) as port:
        for _ in range(ROUNDS):
            ours, theirs = [], []
            for prompt in list(itertools.islice(prompts, REQUESTS)):
                ours.append(milliseconds_to_first_text(service.port, "tiny-a", prompt))
                theirs.append(milliseconds_to_first_text(port, "default_model", prompt))
            medians.append((statistics.median(ours), statistics.median(theirs)))
            if medians[-1][0] <= medians[-1][1] * NOISE:
                return
    pytest.fail("; ".join(f"{our:.2f} ms, mlx_lm.server {their:.2f} ms" for our, their in medians))
