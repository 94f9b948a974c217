"""Opens and closes the record of every request that reaches the app."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.wire.failure import Code
from gateway.core.served import CLIENT_LEFT, Journal, Served
from gateway.http.endpoints import Endpoint


class Journaling:
    """Around the whole app. Handlers and responses find the record as `served` in the request's state."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        served = self._journal.begin(scope["method"], time.monotonic(), scope["path"])
        scope["state"]["served"] = served

        async def send_and_note(message: Message) -> None:
            # Tokens take the server's shortcut past this.
            if message["type"] == "http.response.start":
                served.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:  # the gateway stops, and the client does not read
            served.outcome = CLIENT_LEFT
            raise
        except Exception:  # which the server answers
            served.status, served.outcome = served.status or 500, Code.INTERNAL_ERROR
            raise
        finally:
            _name_route(served, scope.get("row"))
            self._journal.end(served, time.monotonic())


def _name_route(served: Served, row: Endpoint | None) -> None:
    if row is not None:
        served.path = row.path
        served.is_inference = row.is_inference and row.method == served.method
