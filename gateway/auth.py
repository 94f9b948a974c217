"""Who may call: middlewares. They know no user, only keys and where a page came from."""

import hmac
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.protocol import Failure
from gateway.errors import ApiError


class BearerAuth:
    """Lets a request pass whose `Authorization: Bearer` holds `key`; every request where `key` is None."""

    def __init__(self, app: ASGIApp, key: SecretStr | None) -> None:
        self._app = app
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError `invalid_api_key` for a missing or wrong key."""
        if self._key is not None and not hmac.compare_digest(_bearer_key(scope), self._key):
            raise ApiError(Failure("invalid_api_key", "missing or wrong key: send Authorization: Bearer <key>"))
        await self._app(scope, receive, send)


class AllowedOrigins(CORSMiddleware):
    """Lets pages of these origins call everything but administration. Around the whole app: so a page can also read why
    it was refused, and its browser may ask without a key what it may send."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("retry-after",),
            # A page on the internet that calls a gateway at home is named in the settings, too.
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Never for /admin: with `*` any page could kill and unload."""
        if scope["type"] == "http" and scope["path"].startswith("/admin"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class SameOrigin:
    """Refuses what a page of another site sends from somebody's browser: without a key it could kill and unload."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError `foreign_origin`."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
            raise ApiError(Failure("foreign_origin", "administration is not for pages of other sites"))
        await self._app(scope, receive, send)


def _bearer_key(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return bytes(key.strip())
    return b""
