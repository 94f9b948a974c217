"""Listens on the ports of a gateway, before anything else is started; says in one line why it cannot.

Standard library only: the command asks here too, before it starts a service.
"""

import errno
import json
import socket
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

BACKLOG = 2048
_ASK_SECONDS = 2.5  # a gateway without a broker takes 2 s to say so
_WHATEVER_IS_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # compared, not bound


@dataclass(slots=True, frozen=True)
class Port:
    """A port of the settings, and how to choose another one."""

    number: int
    name: str
    choose: str


def port(number: int) -> Port:
    """The gateway's own port."""
    other = 9000 if number != 9000 else 9001
    return Port(
        number,
        "port",
        f"mlx-broker serve --port {other}, MLX_BROKER_PORT={other} or make run PORT={other}",
    )


def ollama_port(number: int) -> Port:
    """The second port, for Ollama's clients."""
    return Port(number, "ollama_port", "MLX_BROKER_OLLAMA_PORT, or leave that setting out")


class ListenError(Exception):
    """The gateway cannot listen there. The message says why and what to do."""


def listen(host: str, ports: list[Port]) -> list[socket.socket]:
    """Listening sockets: for each port, one for each address of the host. Raises ListenError."""
    sockets: list[socket.socket] = []
    try:
        for one in ports:
            sockets += _listen_on(host, one)
    except ListenError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def _listen_on(host: str, to: Port) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None  # `localhost` names ::1 too where there is no IPv6
    try:
        found = socket.getaddrinfo(host or None, to.number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listener(family, kind, protocol, address))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if not sockets and missing is not None:
            raise missing
    except OSError as error:
        for listener in sockets:
            listener.close()
        holder = holder_of(host, to.number) if error.errno == errno.EADDRINUSE else None
        raise ListenError(explain(error, host, to, holder)) from error
    return sockets


def _listener(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also while old connections fade
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def explain(error: OSError, host: str, to: Port, holder: str | None = None) -> str:
    """One line for people. holder: the program that has the port, if it is known."""
    if isinstance(error, socket.gaierror):
        return f"host {host!r} is not known: choose an address of this machine with --host or MLX_BROKER_HOST"
    if error.errno == errno.EADDRINUSE:
        by = f" by {holder}" if holder else ""
        return f"{to.name} {to.number} is taken{by}: stop what listens there, or choose another port with {to.choose}"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return (
            f"host {host} is not an address of this machine: choose 127.0.0.1, or 0.0.0.0 for all of its addresses, "
            "with --host or MLX_BROKER_HOST"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = "ports below 1024 are for root" if to.number < 1024 else "the system forbids it"
        return f"{to.name} {to.number} may not be used: {reason}; choose another port with {to.choose}"
    return f"cannot listen on {to.name} {to.number} of {host}: {error.strerror or error}"


def holder_of(host: str, number: int) -> str | None:
    """The program that answers on this port, if it is one that says so soon."""
    at = _WHATEVER_IS_HERE.get(host, host)
    health = _ask(at, number, "/admin/health")
    if health is None:
        return None
    with suppress(ValueError, AttributeError):
        if json.loads(health).get("status") in ("healthy", "unhealthy"):
            return "another mlx-broker"
    return "Ollama" if _ask(at, number, "/") == b"Ollama is running" else None


def _ask(host: str, number: int, path: str) -> bytes | None:
    """The beginning of the answer, whatever its status; None if there is none in time."""
    import http.client  # noqa: PLC0415 # takes 3 MiB, and most gateways never ask

    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(host, number, timeout=_ASK_SECONDS)) as connection,
    ):
        connection.request("GET", path)
        return connection.getresponse().read(1000)
    return None
