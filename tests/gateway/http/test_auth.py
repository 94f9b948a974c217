"""Keys, and which pages may administrate, without sockets: the middlewares and what clients say."""

import contextlib

import pytest
from pydantic import SecretStr

from broker.wire.failure import FailureError
from gateway.http.auth import KeyAuth, SameOrigin

pytestmark = pytest.mark.anyio


async def passes(origin: str | None, host: str, *, needs_key: bool = False, method: str = "GET", **others: str) -> bool:
    reached = []

    async def app(*_: object) -> None:
        reached.append(True)

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in others.items()]
    with contextlib.suppress(FailureError):
        scope = {"type": "http", "method": method, "headers": headers}
        await SameOrigin(app, needs_key=needs_key)(scope, None, None)  # type: ignore[arg-type] # not used
    return bool(reached)


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "192.168.1.5"])
async def test_what_is_reached_by_address_is_its_own(host: str) -> None:
    assert await passes(f"http://{host}", host)
    assert not await passes("https://elsewhere.example", host)
    assert await passes(None, host)  # no browser


async def test_a_name_may_have_been_bent_to_this_machine() -> None:
    assert not await passes("http://evil.example:8080", "evil.example:8080")
    # Whoever calls needs a key, which such a page does not have.
    assert await passes("https://models.example", "models.example", needs_key=True)
    assert not await passes("https://elsewhere.example", "models.example", needs_key=True)


@pytest.mark.parametrize("host", ["evil.example:8080", "evil.example", "evil.example.:8080", "EVIL.example"])
async def test_a_page_that_only_reads_says_no_origin(host: str) -> None:
    assert not await passes(None, host)
    assert not await passes(None, host, method="HEAD")
    assert await passes(None, host, method="POST")  # no browser: that would send an origin
    assert await passes(None, host, needs_key=True)


@pytest.mark.parametrize(
    "host", ["localhost:8080", "gateway:8080", "macstudio.local:8080", "a.localhost", "[::1]:8080", ""]
)
async def test_no_server_on_the_internet_answers_for_these_names(host: str) -> None:
    assert await passes(None, host)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_cannot_load_it_without_an_origin_either(site: str) -> None:
    for target in ("image", "script", "iframe", "empty"):
        assert not await passes(None, "127.0.0.1:8080", sec_fetch_site=site, sec_fetch_dest=target)
        assert not await passes(None, "127.0.0.1:8080", needs_key=True, sec_fetch_site=site, sec_fetch_dest=target)
        for own in ("same-origin", "none"):
            assert await passes(None, "127.0.0.1:8080", sec_fetch_site=own, sec_fetch_dest=target)
    assert await passes(None, "127.0.0.1:8080", sec_fetch_site=site, sec_fetch_dest="document")  # a link


@pytest.mark.parametrize("origin", ["null", "http://[", "http://", ""])
async def test_what_is_no_origin_is_none_of_ours(origin: str) -> None:
    assert not await passes(origin, "127.0.0.1:8080")


@pytest.mark.parametrize(
    ("headers", "passing"),
    [
        ({b"authorization": b"Bearer key"}, True),
        ({b"authorization": b"bearer  key "}, True),
        ({b"x-api-key": b"key"}, True),
        ({b"x-api-key": b"key", b"authorization": b"Bearer left over"}, True),
        ({b"x-api-key": b"left over", b"authorization": b"Bearer key"}, True),
        ({b"x-api-key": b"Bearer key"}, False),
        ({b"authorization": b"key"}, False),
        ({b"x-api-key": b""}, False),
        ({b"x-api-key": b"other", b"authorization": b"Bearer other"}, False),
        ({}, False),
    ],
)
async def test_a_key_comes_in_one_of_two_headers(headers: dict[bytes, bytes], passing: bool) -> None:
    reached = []

    async def app(*_: object) -> None:
        reached.append(True)

    scope = {"type": "http", "headers": list(headers.items())}
    with contextlib.suppress(FailureError):
        await KeyAuth(app, SecretStr("key"))(scope, None, None)  # type: ignore[arg-type] # not used
    assert bool(reached) == passing
