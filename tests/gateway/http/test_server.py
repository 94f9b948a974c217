"""What the server does beside HTTP: it bounds what waits for deaf clients, and ends without its starter."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from broker.wire.failure import Code, Failure
from gateway.app import create_app
from gateway.http.server import unsent_option
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS
from tests.gateway.running import ROOT, gateway_process
from tests.gateway.served import ServedGateway, served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

AWAY = Failure(Code.BROKER_UNAVAILABLE, "the broker is away")
RECEIVED = 32_768  # bytes that the client's side holds, so that the rest waits in the server's


def waiting_bytes(option: tuple[int, int, int] | None) -> int:
    """Bytes that the kernel takes for a client that never reads."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        if option is not None:
            listener.setsockopt(*option)
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        client.connect(listener.getsockname())
        served_by = stack.enter_context(listener.accept()[0])
        served_by.setblocking(False)
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += served_by.send(b"x" * 4096)
        return taken


@pytest.mark.skipif(sys.platform != "linux", reason="macOS bounds nothing by the option of Linux")
@pytest.mark.parametrize(("platform", "most"), [("linux", 150_000), ("darwin", 350_000)])
def test_what_waits_for_a_client_that_never_reads_is_bounded(platform: str, most: int) -> None:
    assert waiting_bytes(unsent_option(platform)) < most < waiting_bytes(None)


def gateway(settings: Settings | None = None, **options: Any) -> ServedGateway:
    settings, link = settings or Settings(port=0), ScriptedLink([])
    return ServedGateway(settings, create_app(settings, link), link, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says twice what was set")
async def test_on_macos_the_listener_has_the_buffer_that_every_connection_inherits() -> None:
    server = gateway(platform="darwin")
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        await server.listens.wait()
        [listener] = server.servers[0].sockets
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * unsent_option("darwin")[2]
        server._on_signal(signal.SIGTERM)
        await serving


async def test_a_gateway_that_has_lost_its_starter_ends() -> None:
    lost = False
    server = gateway(has_lost_starter=lambda: lost)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        await server.listens.wait()
        lost = True
        await serving


async def test_both_ports_serve_everything() -> None:
    server = gateway(Settings(port=0, ollama_port=0))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        await server.listens.wait()
        ports = [listening.sockets[0].getsockname()[1] for listening in server.servers]
        assert len(set(ports)) == 2
        for port in ports:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/")).text == "Ollama is running"
                assert (await client.get("/v1/nothing")).status_code == 404
        server._on_signal(signal.SIGTERM)
        await serving


async def test_another_gateway_on_the_port_is_named(runtime_dir: Path) -> None:
    async with served(ScriptedLink([{}], failure=AWAY), Settings(port=0)) as client:
        number = client.base_url.port
        assert number is not None
        for options in ({"port": number}, {"ollama_port": number}):
            async with gateway_process(runtime_dir, **options) as process:
                assert await process.ended() == 2
                [line] = (await process.log()).splitlines()
            [name] = options
            assert line.startswith(
                f"gateway: {name} {number} is taken by another mlx-broker: stop what listens there, or "
            )
            assert f"MLX_BROKER_{name.upper()}" in line


@pytest.mark.parametrize("taken", [True, False])
def test_a_check_only_says_whether_the_gateway_could_listen(runtime_dir: Path, taken: bool) -> None:
    """Before `make run` starts anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        listener.listen() if taken else listener.close()
        checked = subprocess.run(
            [sys.executable, "-m", "gateway", "--check"],
            cwd=runtime_dir,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MLX_BROKER_PORT": str(number)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert checked.returncode == (2 if taken else 0)
    said = checked.stderr.splitlines()
    assert [line.partition(": stop")[0] for line in said] == ([f"gateway: port {number} is taken"] if taken else [])
    assert checked.stdout == ""


def test_one_port_cannot_be_both() -> None:
    with pytest.raises(ValidationError, match="ollama_port must be another port than port, not 8080 too"):
        Settings(port=8080, ollama_port=8080)
