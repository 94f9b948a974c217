"""Who may call: middlewares. They know no user, only keys and the origins of pages."""

import contextlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.wire.failure import Code, Failure, FailureError
from gateway.core.failure import IGNORED_HEADER
from gateway.http.endpoints import Guard, Guards
from gateway.http.refusals import Refusals

_NEEDS_KEY = (
    "needs a key, since pages of other sites can take that name: use this machine's address or localhost, "
    "or set MLX_BROKER_ADMIN_TOKEN"
)
_MOST_KEYS = 4  # of one request that are looked at
_NO_KEY = "missing or wrong key: send Authorization: Bearer <key> or x-api-key: <key>"


def guards(api_key: SecretStr | None, admin_token: SecretStr | None, refusals: Refusals) -> Guards:
    """What stands in front of the endpoints. A key that is None lets all pass. refusals: of wrong admin tokens."""
    change, late = admin_token or api_key, refusals if admin_token is not None else None
    return {
        Guard.OPEN: (),
        Guard.KEY: _key(api_key),
        Guard.CHANGE: (Middleware(SameOrigin, needs_key=change is not None), *_key(change, late)),
        Guard.ADMIN: (Middleware(SameOrigin, needs_key=admin_token is not None), *_key(admin_token, late)),
    }


def _key(key: SecretStr | None, refusals: Refusals | None = None) -> tuple[Middleware, ...]:
    return () if key is None else (Middleware(KeyAuth, key, refusals),)


class KeyAuth:
    """Lets a request pass that has `key` as `Authorization: Bearer` or as `x-api-key`, where clients of Anthropic's API
    have it; every request where `key` is None. A page of another site can set neither without asking first (CORS).
    refusals: say when a wrong key is refused, None: at once."""

    def __init__(self, app: ASGIApp, key: SecretStr | None, refusals: Refusals | None = None) -> None:
        self._app = app
        self._key = key
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FailureError `invalid_api_key` for a missing or wrong key."""
        await check_key(scope, self._key, self._refusals)
        await self._app(scope, receive, send)


async def check_key(scope: Scope, key: SecretStr | None, refusals: Refusals | None) -> None:
    """Raises FailureError `invalid_api_key` for a request without `key`, where there is one. Who sends no key guesses
    none, and is refused at once."""
    if key is None:
        return
    wanted, keys = key.get_secret_value().encode(), [*_keys_in(scope)]
    if any(hmac.compare_digest(sent, wanted) for sent in keys):
        return
    if keys and refusals is not None:
        await refusals.delay()
    raise FailureError(Failure(Code.INVALID_API_KEY, _NO_KEY))


class AllowedOrigins(CORSMiddleware):
    """Lets pages of these origins call everything but what is below `closed`. Around the whole app: so a page can also
    read why it was refused, and its browser may ask without a key what it may send."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], closed: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("retry-after", "x-request-id", IGNORED_HEADER),
            # A page on the internet that calls a gateway at home is named in the settings, too.
            allow_private_network=True,
        )
        self._closed = tuple(closed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Closed is administration with its page: with `*` any page could kill and unload."""
        if scope["type"] == "http" and scope["path"].startswith(self._closed):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class SameOrigin:
    """Refuses requests that a page of another site sends from a user's browser: without a key it could kill and unload.

    A page can also make the name of its own site resolve to this machine (DNS rebinding), and then has the same origin.
    So where no key is needed, that origin must be an address or a name that is never looked up. What only reads comes
    without an origin then: its Host must not be a name that a server on the internet can answer for.
    """

    def __init__(self, app: ASGIApp, *, needs_key: bool) -> None:
        self._app = app
        self._needs_key = needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises FailureError `foreign_origin`."""
        check_page(scope, needs_key=self._needs_key)
        await self._app(scope, receive, send)


def check_page(scope: Scope, *, needs_key: bool, what: str = "administration") -> None:
    """Raises FailureError `foreign_origin` for what SameOrigin refuses. what: is not for such pages."""
    headers = dict(scope["headers"])
    if _is_loaded_elsewhere(headers):
        raise FailureError(Failure(Code.FOREIGN_ORIGIN, f"{what} is not for pages of other sites"))
    origin, host = headers.get(b"origin"), headers.get(b"host", b"").decode("latin-1")
    if origin is not None:
        netloc, name = _parts(origin.decode("latin-1"))
        if netloc != host:
            raise FailureError(Failure(Code.FOREIGN_ORIGIN, f"{what} is not for pages of other sites"))
        is_ours = name == "localhost" or _is_address(name)
    else:
        _netloc, name = _parts(f"//{host}")
        is_ours = scope["method"] not in ("GET", "HEAD") or not _is_public(name)
    if not (is_ours or needs_key):
        raise FailureError(Failure(Code.FOREIGN_ORIGIN, f"{what} by the name {name:.80} {_NEEDS_KEY}"))


def _is_loaded_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site loads this as an image, a script or a frame: that comes without an origin. A link
    that a user follows shows it to the user alone."""
    site, target = headers.get(b"sec-fetch-site"), headers.get(b"sec-fetch-dest")
    return site in (b"cross-site", b"same-site") and target != b"document"


def _parts(url: str) -> tuple[str | None, str]:
    """Host with port, and host alone."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:
        return None, ""


def _is_public(name: str) -> bool:
    """Whether a name server on the internet can say where this is."""
    name = name.removesuffix(".")
    return "." in name and not name.endswith((".local", ".localhost")) and not _is_address(name)


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ip_address(name))
    return False


def _keys_in(scope: Scope) -> Iterator[bytes]:
    """One of several may be a leftover of a client's settings. Not more than a few: each of them would be a guess."""
    return islice(_all_keys_in(scope), _MOST_KEYS)


def _all_keys_in(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield bytes(value)
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield bytes(key.strip())
