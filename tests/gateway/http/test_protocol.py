"""HTTP itself on raw sockets: how answers are framed, what is refused before there is a route, what is bounded."""

import asyncio
import contextlib
import gzip
import json
import tempfile
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.wire.from_gateways import Cancel, Watch
from gateway import awake
from gateway.http import protocol
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Connection, Gateway, chat, connected, running_gateway
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
SMALL = 20_000  # bytes: the limit of bodies in these tests


class Both:
    """A gateway and its broker."""

    def __init__(self, gateway: Gateway, broker: PlayedBroker) -> None:
        self.gateway, self.broker = gateway, broker

    async def tell(self, *pieces: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to these bytes."""
        async with connected(self.gateway) as raw:
            for piece in pieces:
                raw.writer.write(piece)
                await raw.writer.drain()
            return await answer_of(raw)


async def answer_of(raw: Connection) -> tuple[int, dict[str, Any]]:
    head = (await raw.read_until(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    async with asyncio.timeout(SECONDS):
        return int(head.split()[1]), json.loads(await raw.reader.readexactly(length))


@pytest.fixture
async def both(runtime_dir: Path) -> AsyncIterator[Both]:
    settings: dict[str, Any] = {"max_body_mb": SMALL / 2**20, "api_key": "key"}
    async with PlayedBroker(runtime_dir) as broker, running_gateway(broker, runtime_dir, **settings) as gateway:
        yield Both(gateway, broker)


def head(*lines: str, method: str = "POST", path: str = PATH, version: str = "1.1") -> bytes:
    rows = [f"{method} {path} HTTP/{version}", "Authorization: Bearer key", *lines, "", ""]
    return "\r\n".join(rows).encode("latin-1")


def request(body: bytes, *lines: str, version: str = "1.1") -> bytes:
    return head("Host: x", f"Content-Length: {len(body)}", *lines, version=version) + body


BODY = json.dumps(chat()).encode()


# ---- how answers are framed ----------------------------------------------------------------------------------------


async def test_an_http_1_0_client_gets_plain_bytes_and_then_the_end(both: Both) -> None:
    async with connected(both.gateway) as raw:
        raw.writer.write(request(json.dumps(chat(stream=True)).encode(), "Connection: keep-alive", version="1.0"))
        request_id, _ = await both.broker.expect_work()
        await both.broker.partial(request_id, "One")
        first = await raw.read_until(b"\r\n\r\n")
        assert b"chunked" not in first.lower()
        assert b"connection: close" in first.lower()
        assert b"One" in await raw.read_until(b"\n\n")  # at once, not at the end
        await both.broker.finish(request_id, " two")
        rest = await raw.read_to_end()
        lines = rest.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        assert all(line.startswith("data: ") for line in lines[:-1])
    async with connected(both.gateway) as raw:
        raw.writer.write(request(BODY, version="1.0"))
        await both.broker.finish((await both.broker.expect_work())[0], "Whole")
        whole = await raw.read_to_end()
        assert json.loads(whole.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == "Whole"


async def test_head_has_an_end_on_event_streams_too(both: Both) -> None:
    async with connected(both.gateway) as raw:
        for path in ("/admin/events", "/admin/models/a/b/progress", "/admin/events"):
            raw.writer.write(head("Host: x", method="HEAD", path=path))
            answer = await raw.read_until(b"\r\n\r\n")
            assert b"200 OK" in answer
            assert b"text/event-stream" in answer
            watching, _ = await both.broker.expect(Watch)
            assert (await both.broker.expect(Cancel))[0] == watching
        raw.writer.write(head("Host: x", method="HEAD", path="/v1/nothing"))
        assert b"HTTP/1.1 404" in await raw.read_until(b"\r\n\r\n")


async def test_half_a_connection_is_a_client_that_has_left(both: Both) -> None:
    async with connected(both.gateway) as raw:
        raw.writer.write(request(BODY))
        request_id, _ = await both.broker.expect_work()
        raw.writer.write_eof()
        assert (await both.broker.expect(Cancel))[0] == request_id
        assert await raw.read_to_end() == b""


async def test_an_upgrade_that_is_not_served_does_not_hold_up_the_connection(both: Both) -> None:
    """Java's client offers h2c with its first request."""
    async with connected(both.gateway) as raw:
        for _ in range(2):
            raw.writer.write(
                request(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA")
            )
            await both.broker.finish((await both.broker.expect_work())[0], "One")
            assert (await answer_of(raw))[0] == 200


async def test_nor_does_one_with_the_last_request(both: Both) -> None:
    async with connected(both.gateway) as raw:
        raw.writer.write(request(BODY, "Connection: close", "Connection: Upgrade", "Upgrade: websocket"))
        await both.broker.finish((await both.broker.expect_work())[0], "One")
        assert (await raw.read_to_end()).startswith(b"HTTP/1.1 200")


# ---- what is refused -----------------------------------------------------------------------------------------------


CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "no host": (head("Content-Length: 2") + b"{}", 400, "Host"),
    "two equal hosts": (head("Host: x", "Host: x", "Content-Length: 2") + b"{}", 400, "Host"),
    "two hosts of 1.0": (head("Host: x", "Host: y", version="1.0"), 400, "Host"),
    "gzip, chunked": (
        head("Host: x", "Transfer-Encoding: gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        501,
        "gzip, chunked",
    ),
    "gzip as a transfer coding": (head("Host: x", "Transfer-Encoding: gzip") + b"{}", 501, "gzip"),
    "two lengths": (head("Host: x", "Content-Length: 2", "Content-Length: 3") + b"{}", 400, "HTTP/1.1"),
    "length and chunks": (
        head("Host: x", "Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        400,
        "HTTP/1.1",
    ),
    "a chunk of zz bytes": (head("Host: x", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "HTTP/1.1"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "HTTP/1.1"),  # TLS
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/1.1"),
    "no colon": (head("Host: x", "no colon"), 400, "HTTP/1.1"),
    "NUL in a header": (head("Host: x", "X: \x00"), 400, "HTTP/1.1"),
    "no path": (head("Host: x", path="http://nopath", method="GET"), 400, "HTTP/1.1"),
    "a large header": (head("Host: x", "X: " + "a" * 66_000, "Content-Length: 2") + b"{}", 431, "65536"),
    "many headers": (head("Host: x", *(f"X-{n}: 1" for n in range(9000))), 431, "65536"),
    "a long path": (head("Host: x", path="/" + "a" * 66_000), 431, "65536"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_gets_an_error_object_and_the_end(both: Both, name: str) -> None:
    sent, status, says = MALFORMED[name]
    async with connected(both.gateway) as raw:
        raw.writer.write(sent)
        got, body = await answer_of(raw)
        assert (got, sorted(body["error"])) == (status, ["code", "message", "param", "retryable", "type"])
        assert says in body["error"]["message"]
        assert await raw.read_to_end() == b""


async def test_what_is_not_malformed_passes(both: Both) -> None:
    passing = [
        request(BODY, "TE: gzip"),  # of answers; not a coding of this body
        request(BODY, "Expect: 100-continue"),
        head(f"Content-Length: {len(BODY)}", version="1.0") + BODY,
        b"\r\n" + request(BODY),
        head("Host:", f"Content-Length: {len(BODY)}") + BODY,
        head("Host: x", "X: " + "a" * 60_000, f"Content-Length: {len(BODY)}") + BODY,
        head("Host: x", "Transfer-Encoding: chunked") + b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ]
    for sent in passing:
        async with connected(both.gateway) as raw:
            raw.writer.write(sent)
            await both.broker.finish((await both.broker.expect_work())[0], "One")
            assert b" 200 OK" in await raw.read_until(b" 200 OK"), sent[:60]


async def test_a_trailer_is_not_a_header(both: Both) -> None:
    late = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
    late += b"%x\r\n%b\r\n0\r\nAuthorization: Bearer key\r\n\r\n" % (len(BODY), BODY)
    assert (await both.tell(late))[0] == 401


async def test_garbage_after_a_stream_has_begun_is_not_answered_within_it(both: Both) -> None:
    async with connected(both.gateway) as raw:
        raw.writer.write(request(json.dumps(chat(stream=True)).encode()))
        request_id, _ = await both.broker.expect_work()
        await both.broker.partial(request_id, "One")
        await raw.read_until(b"\n\n\r\n")
        raw.writer.write(b"\x16\x03\x01")
        assert await raw.read_to_end() == b""
        assert (await both.broker.expect(Cancel))[0] == request_id


@pytest.mark.parametrize(
    "before",
    [head("Host: x")[:-2] + b"X: ", head("Host: x", "Transfer-Encoding: chunked")],
    ids=["headers", "body"],
)
@pytest.mark.parametrize("piece", [b"a" * 50_000, b"a: b\r\n" * 9000], ids=["one", "many"])
async def test_endless_headers_are_not_kept(both: Both, before: bytes, piece: bytes) -> None:
    """Also as trailers, and as the extension of a chunk."""
    if before.endswith(b"\r\n\r\n"):
        before += b"0\r\n" if piece.endswith(b"\n") else b"2;"
    status, body = await both.tell(before, *[piece] * 8)
    assert (status, body["error"]["code"]) == (431, "headers_too_large")


# ---- bodies --------------------------------------------------------------------------------------------------------


async def test_a_gzipped_body_is_unpacked_within_the_limit_of_bodies(both: Both) -> None:
    packed = gzip.compress(BODY)
    half = len(BODY) // 2
    for body in (packed, gzip.compress(BODY[:half]) + gzip.compress(BODY[half:])):
        for name in ("gzip", "GZIP", "x-gzip"):
            async with connected(both.gateway) as raw:
                raw.writer.write(request(body, f"Content-Encoding: {name}"))
                request_id, work = await both.broker.expect_work()
                assert work.messages == chat()["messages"]
                await both.broker.finish(request_id, "One")
                assert (await answer_of(raw))[0] == 200
    bomb = gzip.compress(bytes(1000 * SMALL))
    assert len(bomb) <= SMALL
    for body, status in ((bomb, 413), (packed[:-9], 400), (packed + b"more", 400), (b"{}", 400)):
        got, error = await both.tell(request(body, "Content-Encoding: gzip"))
        assert (got, error["error"]["param"]) == (status, None), body[-20:]


async def test_gzip_of_nothing_is_no_larger_than_a_body_may_be(both: Both) -> None:
    nothing = gzip.compress(b"")
    many = nothing * (SMALL // 4 // len(nothing))
    chunked = head("Host: x", "Transfer-Encoding: chunked", "Content-Encoding: gzip")
    async with connected(both.gateway) as raw:
        raw.writer.write(chunked + b"".join(b"%x\r\n%s\r\n" % (len(many), many) for _ in range(5)))
        status, error = await answer_of(raw)
        assert (status, error["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("coding", ["zstd", "br", "deflate", "gzip, gzip", "compress", "identity, gzip"])
async def test_another_coding_is_refused_by_name(both: Both, coding: str) -> None:
    got, body = await both.tell(request(zlib.compress(BODY), f"Content-Encoding: {coding}"))
    assert (got, body["error"]["code"]) == (415, "unsupported_encoding")
    assert coding in body["error"]["message"]
    assert (await both.tell(request(b"{}", "Content-Encoding: identity")))[0] == 400


# ---- headers that never end ----------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    monkeypatch.setenv("MLX_BROKER_RUNTIME_DIR", tempfile.gettempdir())


@pytest.mark.usefixtures("hurried")
async def test_the_deadline_stands_still_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers of a loop whose clock counts sleep come early; the other clock is the one that counts."""
    asleep = True
    fell_asleep_at = time.monotonic()
    monkeypatch.setattr(awake, "monotonic", lambda: fell_asleep_at if asleep else time.monotonic())
    async with served(ScriptedLink([])) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"GET /v1/mod")
        answer = asyncio.create_task(reader.read())
        done, _ = await asyncio.wait([answer], timeout=3 * protocol.HEADER_SECONDS)
        assert not done
        asleep = False
        async with asyncio.timeout(SECONDS):
            assert b"HTTP/1.1 408 " in await answer
        writer.close()


@pytest.mark.usefixtures("hurried")
async def test_headers_that_never_end_have_a_deadline() -> None:
    async with served(ScriptedLink([])) as client:
        port = client.base_url.port
        for sent in (b"", b"GET /v1/mod", request(b"{}") + b"GET /v1/mod"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            async with asyncio.timeout(SECONDS):
                answer = await reader.read()
            writer.close()
            assert answer.count(b"HTTP/1.1 408 ") == (1 if b"mod" in sent else 0), sent
            assert answer.count(b"request_timeout") == answer.count(b"HTTP/1.1 408 ")
            assert answer.count(b"HTTP/1.1") == sent.count(b"HTTP/1.1") + answer.count(b" 408 "), sent


@pytest.mark.usefixtures("hurried")
async def test_an_idle_connection_outlives_that_deadline() -> None:
    """Clients keep it for longer. Blank lines, which may stand before a request, do not keep it open."""
    async with served(ScriptedLink([])) as client:
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for blank in (b"", b"\r\n"):
            writer.write(request(b"{}"))
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            writer.write(blank)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS if blank else 3 * protocol.HEADER_SECONDS):
                    await reader.read()
            assert reader.at_eof() == bool(blank)
        writer.close()
