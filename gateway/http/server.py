"""uvicorn with a shutdown that does not depend on clients, and without its ten wake-ups a second.

On SIGTERM or SIGINT open streams are ended with a framed error before uvicorn waits for its connections: left alone
it would wait for as long as they run.
"""

import asyncio
import contextlib
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.kinds import TEXT
from broker.wire.listening import BACKLOG, listen, ollama_port, port
from gateway.core.ask import models
from gateway.directory import Directory
from gateway.http.protocol import Protocol
from gateway.link.link import Link
from gateway.settings import Settings

log = logging.getLogger(__name__)

_GRACEFUL_SECONDS = 3  # for clients that do not read the end of their answers
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close first
_STOPPING = Failure(Code.BROKER_UNAVAILABLE, "the gateway is shutting down", retry_after=1, retryable=True)


def unsent_option(platform: str) -> tuple[int, int, int]:
    """The socket option (level, name, bytes) that bounds what may wait in the kernel for a client that does not read.
    By default it takes megabytes, thousands of tokens, before the gateway notices."""
    if platform == "darwin":
        # There TCP_NOTSENT_LOWAT only says when a socket becomes writable, and writes go on (XNU, uipc_socket.c). The
        # buffer holds what is on its way too, so it is larger; setting it keeps it from growing.
        return (socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    return (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16_384)


def listeners(settings: Settings) -> list[socket.socket]:
    """Listening sockets for the ports of these settings. Raises ListenError."""
    second = settings.ollama_port
    return listen(settings.host, [port(settings.port), *([] if second is None else [ollama_port(second)])])


class Server(uvicorn.Server):
    """One gateway. `serve` returns after the first signal, within 4 s, and after what started it has gone."""

    def __init__(
        self,
        settings: Settings,
        app: ASGIApp,
        link: Link,
        has_lost_starter: Callable[[], bool] = lambda: False,
        platform: str = sys.platform,
    ) -> None:
        self._has_lost_starter = has_lost_starter
        self._unsent = unsent_option(platform)
        self._settings = settings
        self._link = link
        self._stop = asyncio.Event()
        self.mistakes: list[str] = []  # of the settings, as far as only the broker can tell
        super().__init__(
            uvicorn.Config(
                app,
                backlog=BACKLOG,
                loop="uvloop",
                http=Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACEFUL_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on these sockets. None: listens on the ports of the settings, and raises ListenError."""
        sockets = listeners(self._settings) if sockets is None else sockets
        for listener in sockets:  # every connection inherits it
            listener.setsockopt(*self._unsent)
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Until a signal, the end of its starter, or mistakes of the settings."""
        announcing = asyncio.create_task(self._announce())
        while not await self.on_tick(0):  # renews the Date header
            if self._has_lost_starter():
                log.warning("what started it has gone: the gateway ends")
                self.should_exit = True
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        announcing.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all streams, then wait for their connections."""
        self._link.refuse(_STOPPING)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals go through the event loop and wake it. They are not raised again: the exit is clean."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self.handle_exit(number, None)
        self._stop.set()

    async def _announce(self) -> None:
        """Print the address, once the broker answers; end if the settings do not fit to its models."""
        with contextlib.suppress(FailureError):
            self.mistakes = await self._find_mistakes()
            if self.mistakes:
                self.should_exit = True
                self._stop.set()
                return
            model = self._settings.default_model or await self._first_text_model()
            where, *others = _urls(self.servers)
            needs_key = self._settings.api_key is not None
            if self._settings.log_format == "json":
                log.info("mlx-broker listens on %s", " and ".join([where, *others]))
                return
            sys.stdout.write(announcement(where, model, needs_key=needs_key, others=others))
            sys.stdout.flush()

    async def _find_mistakes(self) -> list[str]:
        while True:
            await self._link.connected.wait()
            try:
                return await Directory(self._settings, self._link).mistakes()
            except FailureError as error:
                if error.failure.code is not Code.BROKER_UNAVAILABLE:  # else ask the next one
                    raise

    async def _first_text_model(self) -> str | None:
        call = await self._link.call(models())
        try:
            [(_index, report)] = await call.take()
        finally:
            call.close()
        if isinstance(report, Failure):
            raise FailureError(report)
        return next((model.model_id for model in report.models if model.model_type == TEXT), None)


def _urls(servers: Sequence[asyncio.base_events.Server]) -> list[str]:
    """One for each port, however many addresses it has."""
    addresses = [listener.getsockname()[:2] for server in servers for listener in server.sockets]
    hosts = dict(reversed([(number, host) for host, number in addresses]))
    return [_url(hosts[number], number) for number in dict.fromkeys(number for _, number in addresses)]


def _url(host: str, number: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"http://[{host}]:{number}" if ":" in host else f"http://{host}:{number}"


def announcement(url: str, model: str | None, *, needs_key: bool, others: Sequence[str] = ()) -> str:
    """The text for people when the gateway is ready: where it listens, and a command to try."""
    where = " and ".join([f"mlx-broker listens on {url}", *others])
    if model is None:
        return f"{where}; it has no text model yet\n"
    key = ' -H "Authorization: Bearer $MLX_BROKER_API_KEY"' if needs_key else ""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": model, "messages": question, "temperature": 0}  # the demo model is small, so greedy
    return (
        f"{where}, try:\n"
        f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}\n"
    )
