"""A gateway that has met a played broker, in this process or as one of its own; and a client that shows raw HTTP."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from broker.wire.from_gateways import Models
from gateway.link.client import BrokerClient
from gateway.settings import Settings
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.served import served

ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "model_id": "org/tiny",
    "model_type": "text-gen",
    "size_bytes": 2**29,
    "quantization": "4-bit",
    "context_length": 2048,
    "state": "unloaded",
    "created": 1700000000,
    "capabilities": ["generate", "tools"],
    "architecture": "llama",
    "parameters": 1000,
}


class Gateway:
    """Where it listens."""

    def __init__(self, url: str = "", port: int = 0) -> None:
        self.url = url
        self.port = port


class GatewayProcess(Gateway):
    """Its address, its output, its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self.process = process
        self.announcement = ""

    async def read_announcement(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            lines = [await self.process.stdout.readline() for _ in range(2)]
        self.announcement = b"".join(lines).decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.announcement)
        assert found, self.announcement
        self.url, self.port = found[0], int(found[1])

    async def ended(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    async def log(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            return (await self.process.stderr.read()).decode()


@contextlib.asynccontextmanager
async def gateway_process(runtime_dir: Path, **settings: Any) -> AsyncIterator[GatewayProcess]:
    """`python -m gateway` with these settings, on a port of its choice unless they name one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_BROKER_")}
    environment |= {"PYTHONPATH": str(ROOT), "MLX_BROKER_PORT": "0", "MLX_BROKER_RUNTIME_DIR": str(runtime_dir)}
    environment["MLX_BROKER_STATE_DIR"] = str(runtime_dir)
    environment |= {f"MLX_BROKER_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway"),
        cwd=runtime_dir,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield GatewayProcess(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def running_process(
    broker: PlayedBroker, runtime_dir: Path, models: tuple[dict[str, Any], ...] = (MODEL,), **settings: Any
) -> AsyncIterator[GatewayProcess]:
    """A gateway process that has met `broker` and announced itself."""
    async with gateway_process(runtime_dir, **settings) as gateway:
        await _meet(broker, models, settings)
        await gateway.read_announcement()
        yield gateway


@contextlib.asynccontextmanager
async def running_gateway(
    broker: PlayedBroker, runtime_dir: Path, models: tuple[dict[str, Any], ...] = (MODEL,), **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway in this process that has met `broker`: for tests of what it sends and answers, as a process of its own
    takes a second to start."""
    given = Settings(**{"port": 0, "runtime_dir": runtime_dir, **settings})
    async with served(BrokerClient(given.broker_socket), given) as client:
        await _meet(broker, models, settings)
        yield Gateway(str(client.base_url).rstrip("/"), client.base_url.port or 0)


async def _meet(broker: PlayedBroker, models: tuple[dict[str, Any], ...], settings: dict[str, Any]) -> None:
    await broker.meet()
    if "default_model" not in settings:
        request_id, _ = await broker.expect(Models)
        await broker.final(request_id, {"models": list(models)})


class Connection:
    """One HTTP/1.1 request at a time, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(data)) + data
        )
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.readuntil(mark)

    async def read_to_end(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
