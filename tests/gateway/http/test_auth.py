"""Keys, and which pages may administrate, without sockets: the middlewares and what clients say."""

import contextlib

import pytest
from pydantic import SecretStr

from broker.wire.failure import FailureError
from gateway.http.auth import KeyAuth, SameOrigin

pytestmark = pytest.mark.anyio


async def passes(origin: str | None, host: str, *, needs_key: bool = False) -> bool:
    reached = []

    async def app(*_: object) -> None:
        reached.append(True)

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    with contextlib.suppress(FailureError):
        await SameOrigin(app, needs_key=needs_key)({"type": "http", "headers": headers}, None, None)  # type: ignore[arg-type] # not used
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
