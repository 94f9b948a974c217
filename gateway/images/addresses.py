"""Which addresses may be connected to for a client, and connections to no others.

A client that names a URL makes the gateway connect, from this machine and inside its network. So a name is resolved
once, every address it has is checked, and the connection goes to one of those: a later, different answer of the name
server changes nothing. Knows no HTTP.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Thread

import httpcore2

_LOOKUPS = 64  # at the same time; a silent name server blocks each for up to a minute

# Python's is_global follows IANA's tables, newer releases more closely: these are listed so that all releases agree.
_UNICAST = ip_network("2000::/3")  # the only part of IPv6 that is assigned
_NAT64 = ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
_SPECIAL = [
    ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "2001::/23", "2002::/16", "3fff::/20")
]


class NotPublicError(Exception):
    """This host is, or has, an address that may not be connected to."""


def is_public(address: str) -> bool:
    """Whether `address` is on the public internet: not loopback, link-local, private, shared, multicast, documentation
    or reserved, nor an IPv6 address that wraps one of those."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        wrapped = ip.ipv4_mapped or (IPv4Address(ip.packed[12:]) if ip in _NAT64 else None)
        if wrapped is None and ip not in _UNICAST:
            return False
        ip = wrapped or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


class CheckedNetwork(httpcore2.AnyIOBackend):
    """Connects to public addresses; with `allow_private` to all."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._lookups = asyncio.Semaphore(_LOOKUPS)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 # the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """The addresses in turn, each for its share of `timeout` seconds. Raises NotPublicError, ConnectError,
        ConnectTimeout."""
        addresses = await self._resolve(host, port)
        if not self._allow_private and not all(map(is_public, addresses)):
            raise NotPublicError(host)
        return await self._connect_any(addresses, port, timeout)

    async def _connect_any(
        self,
        addresses: list[str],
        port: int,
        timeout: float | None,  # noqa: ASYNC109 # divided among the addresses
    ) -> httpcore2.AsyncNetworkStream:
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await super().connect_tcp(address, port, share)
        return await super().connect_tcp(addresses[-1], port, share)

    async def _resolve(self, host: str, port: int) -> list[str]:
        """In a thread of its own: the event loop has few threads, so one silent name server could block all other
        lookups, and the process would wait for them when it ends."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        await self._lookups.acquire()

        def settle(addresses: list[str]) -> None:
            self._lookups.release()
            if addresses and not found.cancelled():
                found.set_result(addresses)
            elif not found.cancelled():
                found.set_exception(httpcore2.ConnectError(f"no address is known for {host}"))

        def look_up() -> None:
            addresses: list[str] = []
            with contextlib.suppress(OSError, UnicodeError):
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, addresses)

        Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        return await found
