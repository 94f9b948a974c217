"""Fetches image files from URLs.

A fetch is bounded in time, bytes and redirects, goes to public addresses only (addresses.py) and knows no
proxy, cookie or password. Nothing is kept: the next request fetches again.

Its libraries take 7 MiB and a tenth of a second, so loader.py imports this file for the first URL.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property

import httpcore2
import httpx2

from broker.wire.settings_file import PREFIX
from gateway.awake import awake_timeout
from gateway.images.addresses import CheckedNetwork, NotPublicError
from gateway.settings import Settings

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [(b"user-agent", b"mlx-broker"), (b"accept", b"image/*"), (b"accept-encoding", b"identity")]


class FetchError(Exception):
    """Why an image cannot be fetched, for the client."""


@dataclass(slots=True)
class FetchRoom:
    """The bytes that one request may still fetch; in total as many as its body may have."""

    left: int


class Fetcher:
    """One for the whole gateway; it holds no connections. network: None for one that the settings allow."""

    def __init__(self, settings: Settings, network: CheckedNetwork | None = None) -> None:
        self._settings = settings
        self._network = network or CheckedNetwork(allow_private=settings.allow_private_image_hosts)

    def room(self) -> FetchRoom:
        """For one request."""
        return FetchRoom(self._settings.max_body_bytes)

    async def file(self, source: str, room: FetchRoom) -> bytes:
        """The file at this URL. Raises FetchError."""
        seconds = self._settings.image_timeout_seconds
        try:
            async with awake_timeout(seconds):
                return await self._fetch(source, room)
        except TimeoutError:
            raise FetchError(f"fetching it took longer than {seconds:g} s") from None
        except NotPublicError as error:
            setting = f"{PREFIX}ALLOW_PRIVATE_IMAGE_HOSTS"
            raise FetchError(f"{error} is not a public host; {setting}=true would allow it") from error
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
            raise FetchError(f"it cannot be fetched: {error}") from error

    async def _fetch(self, source: str, room: FetchRoom) -> bytes:
        url = checked(source)
        for _ in range(self._settings.image_max_redirects + 1):
            async with self._get(url) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or not location:
                    return await self._read(response, room)
                url = checked(location, url)
        raise FetchError(f"more than {self._settings.image_max_redirects} redirects")

    @contextlib.asynccontextmanager
    async def _get(self, url: httpx2.URL) -> AsyncIterator[httpcore2.Response]:
        # A pool for one request: a connection that is kept could be to an address that a name no longer has.
        is_tls = url.scheme == "https"
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"host", url.netloc), *_HEADERS]
        timeouts = {"connect": self._settings.image_timeout_seconds}
        async with (
            httpcore2.AsyncConnectionPool(self._tls if is_tls else None, network_backend=self._network) as pool,
            pool.stream("GET", target, headers=headers, extensions={"timeout": timeouts}) as response,
        ):
            yield response

    async def _read(self, response: httpcore2.Response, room: FetchRoom) -> bytes:
        if response.status != 200:
            raise FetchError(f"its host answered with status {response.status}")
        media_type = _header(response, b"content-type")
        if not media_type.lower().startswith("image/"):
            raise FetchError(f"its host says that it is {media_type!r:.80}, which is not an image")
        if encoding := _header(response, b"content-encoding"):
            raise FetchError(f"its host compressed it ({encoding:.20}), which was not asked for")
        limit = int(self._settings.image_max_mb * 2**20)
        if int(_header(response, b"content-length") or "0") > limit:
            raise FetchError(f"it has more than {limit} bytes")
        data = bytearray()
        async for chunk in response.aiter_stream():
            data += chunk
            room.left -= len(chunk)
            if len(data) > limit:
                raise FetchError(f"it has more than {limit} bytes")
            if room.left < 0:
                raise FetchError(f"the images of this request have more than {self._settings.max_body_bytes} bytes")
        if not data:
            raise FetchError("it is empty")
        return bytes(data)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()  # reads the machine's certificates, so only when needed


def checked(location: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """A URL that may be asked. Raises FetchError."""
    try:
        url = httpx2.URL(location) if base is None else base.join(location)
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchError(f"it is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise FetchError("its URL must begin with http://, https:// or data:")
    if url.port is not None and not 0 < url.port < 2**16:
        raise FetchError(f"its URL names port {url.port}, which is not a port")
    if url.userinfo:
        raise FetchError("its URL must not have a user or password in it")
    return url


def _header(response: httpcore2.Response, name: bytes) -> str:
    """Empty where there is none."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
