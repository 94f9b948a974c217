"""A gateway that keeps no record of any request, for bench/metrics.py to compare: `python -m bench.unrecorded`."""

import runpy

from starlette.types import Receive, Scope, Send

from gateway.core.served import Served
from gateway.http.journal import Journaling


async def _pass_on(self: Journaling, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        scope["state"]["served"] = Served("", 0.0)
    await self._app(scope, receive, send)


def _hear_nothing(self: Served, now: float, count: int) -> None:
    pass


if __name__ == "__main__":
    Journaling.__call__ = _pass_on  # type: ignore[method-assign]
    Served.hear = _hear_nothing  # type: ignore[method-assign]
    runpy.run_module("gateway", run_name="__main__")
