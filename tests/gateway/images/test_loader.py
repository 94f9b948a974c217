"""Images by URL, against real hosts on loopback: the loader alone, then a gateway process with a played broker."""

import asyncio
import base64
import contextlib
import time
from pathlib import Path
from typing import Any

import httpcore2
import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.failure import FailureError
from gateway.core.content import Image
from gateway.images.addresses import CheckedNetwork
from gateway.images.fetch import Fetcher, FetchError, checked
from gateway.images.loader import ImageLoader
from gateway.settings import Settings
from tests.gateway.images.image_host import MISSING, PNG, ImageHost, found, moved
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import Gateway, connected, running_gateway, running_process

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ALLOWED: dict[str, Any] = {"allow_private_image_hosts": True}


def loader(**settings: Any) -> ImageLoader:
    return ImageLoader(Settings.model_construct(**{**ALLOWED, **settings}))


async def load(*urls: str, **settings: Any) -> list[bytes]:
    async with asyncio.timeout(SECONDS):
        return await loader(**settings).load([Image(url) for url in urls])


async def refusal(*urls: str, **settings: Any) -> str:
    """Why the last of `urls` is refused."""
    with pytest.raises(FailureError) as caught:
        await load(*urls, **settings)
    assert caught.value.failure.code == "invalid_request"
    assert caught.value.failure.param == f"images[{len(urls) - 1}]"
    assert caught.value.failure.message.startswith(f"images[{len(urls) - 1}]: ")
    return caught.value.failure.message


async def test_images_come_in_their_order() -> None:
    async with ImageHost() as host:
        host.answers = {f"/{n}.png?size=1": found(PNG + bytes([n])) for n in range(8)}
        urls = [host.url(f"/{n}.png?size=1#top") for n in range(8)]
        assert await load(*urls) == [PNG + bytes([n]) for n in range(8)]
        head = host.requests[0].lower()
        assert f"host: 127.0.0.1:{host.port}\r\n" in head
        assert "accept-encoding: identity\r\n" in head
        mixed = [Image(b"sent"), Image(urls[3])]
        assert await loader().load(mixed) == [b"sent", PNG + b"\x03"]


async def test_images_of_one_request_are_fetched_together() -> None:
    async with ImageHost() as slow, ImageHost() as host:
        slow.stalls = {"/"}
        host.waits_for = slow.asked  # else the refusal may come before the first host is asked
        loading = asyncio.create_task(load(slow.url("/"), host.url("/missing")))
        with pytest.raises(FailureError, match="404"):  # although the first never answers
            await loading
        async with asyncio.timeout(SECONDS):
            await slow.left.wait()


async def test_a_host_without_a_length_or_with_its_image_in_chunks() -> None:
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PNG[:9], PNG[9:])) + b"0\r\n\r\n"
    async with ImageHost() as host:
        host.answers["/close"] = found(length=-1, media_type="Image/PNG; a=b")
        host.answers["/chunks"] = found(chunked, length=-1, more="transfer-encoding: chunked\r\n")
        assert await load(host.url("/close"), host.url("/chunks")) == [PNG, PNG]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (MISSING, "status 404"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "status 304"),
        (b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "status 302"),
        (found(b"<html>", "text/html"), "'text/html', which is not an image"),
        (found(media_type=""), "'', which is not an image"),
        (found(b""), "empty"),
        (found(more="content-encoding: gzip\r\n"), "compressed"),
        (found(length=2**40), "more than 1048576 bytes"),
        (found(bytes(2**20 + 1)), "more than 1048576 bytes"),
        (found(bytes(2**20 + 1), length=-1), "more than 1048576 bytes"),
        (found(length=1000), "cannot be fetched"),  # and closes before that
        (found(length=-1, more="content-length: 1\r\ncontent-length: 2\r\n"), "cannot be fetched"),
        (found(length=-1, more="content-length: -5\r\n"), "cannot be fetched"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "cannot be fetched"),
        (b"", "cannot be fetched"),
        (moved("/image"), "more than 3 redirects"),
        (moved("http://me:secret@127.0.0.1/"), "user or password"),
        (moved("ftp://127.0.0.1/a.png"), "must begin with http"),
        (moved("file:///etc/passwd"), "must begin with http"),
        (moved("data:image/png;base64,iVBORw0KGgo="), "must begin with http"),
        (moved("http://127.0.0.1:x/"), "not a URL"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 2**18 + b"\r\n\r\n", "cannot be fetched"),
    ],
)
async def test_what_is_no_image_is_refused(answer: bytes, why: str) -> None:
    async with ImageHost() as host:
        host.answers["/image"] = answer
        assert why in await refusal(host.url("/image"), image_max_mb=1)


async def test_no_more_is_read_than_a_length_says() -> None:
    async with ImageHost() as host:
        host.answers["/image"] = found(PNG * 1000, length=len(PNG))
        assert await load(host.url("/image")) == [PNG]


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", found(length=1000)])
async def test_a_host_that_stalls_is_left_in_time(sent: bytes) -> None:
    async with ImageHost() as host:
        host.answers["/image"], host.stalls = sent, {"/image"}
        assert "took longer than 0.1 s" in await refusal(host.url("/image"), image_timeout_seconds=0.1)
        async with asyncio.timeout(SECONDS):
            await host.left.wait()


async def test_the_images_of_a_request_are_bounded_together() -> None:
    async with ImageHost() as host:
        host.answers["/image"] = found(bytes(400_000))
        urls = [host.url("/image")] * 3
        assert len(await load(*urls)) == 3
        with pytest.raises(FailureError, match="the images of this request have more than 1048576 bytes"):
            await load(*urls, max_body_mb=1)
        assert "3 images in one request, at most 2" in (await refused_count(urls, 2)).failure.message


async def refused_count(urls: list[str], limit: int) -> FailureError:
    with pytest.raises(FailureError) as caught:
        await load(*urls, max_images=limit)
    assert caught.value.failure.param == f"images[{limit}]"
    return caught.value


async def test_redirects_are_followed_to_their_end() -> None:
    async with ImageHost() as host, ImageHost() as other:
        host.answers = {"/a/1": moved("2?x=1", 301), "/a/2?x=1": moved(other.url("/3"), 307)}
        other.answers = {"/3": moved("//" + host.url("/4")[7:], 308), "/4": found()}
        host.answers["/4"] = found()
        assert await load(host.url("/a/1")) == [PNG]
        assert "more than 2 redirects" in await refusal(host.url("/a/1"), image_max_redirects=2)


@pytest.mark.parametrize(
    "host_name",
    [
        *("127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.1.", "localhost", "LOCALHOST."),
        *("0", "0.0.0.1", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
        *("10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("[fe80::1]", "[fd00::1]", "[ff02::1]", "[::127.0.0.1]", "[2002:7f00:1::]"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1"),
    ],
)
async def test_addresses_that_are_not_public_are_refused(host_name: str) -> None:
    async with ImageHost() as host:
        host.answers["/image"] = found()
        why = await refusal(host.url("/image", host_name), allow_private_image_hosts=False)
        assert "MLX_BROKER_ALLOW_PRIVATE_IMAGE_HOSTS=true" in why or "not a URL" in why or "no address" in why
        assert host.requests == []


class FirstHop(CheckedNetwork):
    """Takes 127.0.0.1 for a public host: a test has no other. Everything else is checked as always."""

    async def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.AsyncNetworkStream:
        if host == "127.0.0.1":
            return await self._connect_any([host], port, SECONDS)
        return await super().connect_tcp(host, port, *arguments, **named)


async def test_a_redirect_to_an_address_that_is_not_public_is_refused() -> None:
    async with ImageHost() as host:
        host.answers = {"/a": moved(host.url("/b")), "/b": moved(host.url("/c", "localhost")), "/c": found()}
        images = loader(allow_private_image_hosts=False)
        images._fetcher = Fetcher(images._settings, FirstHop(allow_private=False))
        with pytest.raises(FailureError, match="localhost is not a public host"):
            await images.load([Image(host.url("/a"))])
        assert [head.split(" ")[1] for head in host.requests] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "must begin with"),
        ("ftp://127.0.0.1/a.png", "must begin with"),
        ("//127.0.0.1/a.png", "must begin with"),
        ("a.png", "must begin with"),
        ("", "must begin with"),
        ("http:///a.png", "must begin with"),
        ("http://me@127.0.0.1/a.png", "user or password"),
        ("http://:secret@127.0.0.1/a.png", "user or password"),
        ("http://127.0.0.1:x/", "not a URL"),
        ("http://127.0.0.1:99999/", "port 99999"),
        ("http://127.0.0.1:0/", "port 0"),
        ("http://127.0.0.1/\r\nx: y", "not a URL"),
        ("http://" + "a" * 70_000, "not a URL"),
        ("http://127.0.0.1:1/a.png", "cannot be fetched"),
    ],
)
async def test_what_is_no_url_to_fetch_is_refused(url: str, why: str) -> None:
    assert why in await refusal(url)


@given(st.one_of(st.text(), st.tuples(st.sampled_from(["http://", "https:", "//"]), st.text()).map("".join)))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for base in (None, httpx2.URL("http://a/b")):
        with contextlib.suppress(FetchError):
            assert checked(text, base).raw_host.decode("ascii")


async def test_a_host_that_speaks_no_tls() -> None:
    async with ImageHost() as host:
        assert "cannot be fetched" in await refusal(host.url("/image").replace("http", "https"))


def question(*urls: str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "model": "org/tiny",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}],
        **fields,
    }


def http(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS)


async def test_a_chat_with_images(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir, **ALLOWED, http_proxy="http://127.0.0.1:1") as gateway,
        http(gateway) as client,
        ImageHost() as host,
    ):
        host.answers["/a.png"] = found()
        data = "data:image/png;base64," + base64.b64encode(b"in the body").decode()
        asking = asyncio.create_task(client.post(CHAT, json=question(host.url("/a.png"), data, n=2)))
        for _ in range(2):
            request_id, work = await broker.expect_work()
            assert work.images == [PNG, b"in the body"]
            content = [{"type": "text", "text": "What?"}, {"type": "image"}, {"type": "image"}]
            assert work.messages == [{"role": "user", "content": content}]
            await broker.finish(request_id, "A cat.")
        assert (await asking).json()["choices"][1]["message"]["content"] == "A cat."
        for stream in (False, True):
            refused = await client.post(CHAT, json=question(data, host.url("/b.png"), stream=stream))
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "messages[0].content[2].image_url"
            assert "status 404" in refused.json()["error"]["message"]


async def test_private_addresses_are_refused_unless_a_setting_allows_them(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir) as gateway,
        http(gateway) as client,
        ImageHost() as host,
    ):
        host.answers["/a.png"] = found()
        refused = await client.post(CHAT, json=question(host.url("/a.png")))
        assert refused.status_code == 400
        assert "MLX_BROKER_ALLOW_PRIVATE_IMAGE_HOSTS" in refused.json()["error"]["message"]
        assert host.requests == []


async def test_a_client_that_goes_ends_its_fetch_and_delays_no_other_client(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, **ALLOWED) as gateway,
        http(gateway) as client,
        ImageHost() as host,
        asyncio.timeout(SECONDS),
    ):
        host.stalls = {"/slow"}
        async with connected(gateway) as raw:
            await raw.post(CHAT, question(host.url("/slow")))
            await host.asked.wait()
            asking = asyncio.create_task(client.post(CHAT, json=question()))
            await broker.finish((await broker.expect_work())[0], "ok")
            assert (await asking).status_code == 200
            assert not host.left.is_set()
        went = time.monotonic()
        await host.left.wait()
        assert time.monotonic() - went < 5.0  # half of what a host is given


async def test_a_stop_ends_a_fetch_with_an_error(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_process(broker, runtime_dir, **ALLOWED) as gateway,
        connected(gateway) as raw,
        ImageHost() as host,
        asyncio.timeout(SECONDS),
    ):
        host.stalls = {"/slow"}
        await raw.post(CHAT, question(host.url("/slow")))
        await host.asked.wait()
        began = time.monotonic()
        gateway.process.terminate()
        answer = await raw.read_to_end()
        assert b"HTTP/1.1 503" in answer
        assert b"shutting down" in answer
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 5.0  # likewise
        assert "Traceback" not in await gateway.log()
