"""Bearer keys: a middleware around one group of routes. It knows no user, only whether the key is the right one."""

import hmac

from pydantic import SecretStr
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


def _bearer_key(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return bytes(key.strip())
    return b""
