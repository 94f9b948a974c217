import asyncio
import socket
import sys
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Any

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.images.addresses import CheckedNetwork, NotPublicError, is_public
from tests.gateway.images.image_host import ImageHost
from tests.gateway.played_broker import SECONDS

# IANA's registries of special-purpose and multicast addresses, and unassigned ranges.
SPECIAL_4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
]
SPECIAL_6 = [
    *("::1/128", "::/128", "::/8", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64"),
    *("2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32"),
    *("2002::/16", "3fff::/20", "4000::/3", "5f00::/16", "8000::/1", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8", "ff0e::/16"),
]
# How an IPv4 address is written into an IPv6 one.
WRAPPED = {name: int(IPv6Address(name)) for name in ("::ffff:0:0", "64:ff9b::", "::", "::ffff:0:0:0")}


def address_in(network: str) -> st.SearchStrategy[str]:
    return st.ip_addresses(network=network).map(str)


@given(st.sampled_from(SPECIAL_4).flatmap(address_in))
def test_no_special_ipv4_address_is_public_however_it_is_written(address: str) -> None:
    assert not is_public(address)
    number = int(IPv4Address(address))
    for base in WRAPPED.values():
        assert not is_public(str(IPv6Address(base + number)))
    assert not is_public(str(IPv6Address((0x2002 << 112) + (number << 80) + 1)))


@given(st.sampled_from(SPECIAL_6).flatmap(address_in))
def test_no_special_ipv6_address_is_public(address: str) -> None:
    wraps = any(IPv6Address(address) in IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96"))
    assert wraps or not is_public(address)


@given(st.ip_addresses(v=4))
def test_every_other_ipv4_address_is_public(address: IPv4Address) -> None:
    is_special = any(address in ip_network(network) for network in SPECIAL_4)
    assert is_public(str(address)) is not is_special


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("1.1.1.1", True),
        ("172.32.0.1", True),
        ("2606:4700::1111", True),
        ("2a00:1450:4001::8a", True),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::1.1.1.1", True),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::10.0.0.1", False),
        ("fe80::1%1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_known_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@pytest.mark.anyio
async def test_of_several_addresses_the_first_that_answers_is_taken() -> None:
    async with ImageHost() as host, asyncio.timeout(SECONDS):  # which listens on IPv4 only
        network = CheckedNetwork(allow_private=True)
        stream = await network._connect_any(["::1", "127.0.0.1"], host.port, SECONDS)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", host.port)
        await stream.aclose()
        with pytest.raises(httpcore2.ConnectError):
            await network._connect_any(["::1", "::1"], host.port, SECONDS)


@pytest.mark.anyio
async def test_names_are_checked_by_their_addresses() -> None:
    async with ImageHost() as host, asyncio.timeout(SECONDS):
        with pytest.raises(NotPublicError, match="localhost"):
            await CheckedNetwork(allow_private=False).connect_tcp("localhost", host.port)
        for name in ("no-such-host.invalid", "a" * 64, "x..y"):
            with pytest.raises(httpcore2.ConnectError, match="no address"):
                await CheckedNetwork(allow_private=False).connect_tcp(name, host.port)


@pytest.mark.parametrize("addresses", [("1.1.1.1", "127.0.0.1"), ("127.0.0.1", "1.1.1.1"), ("2606:4700::1111", "::1")])
@pytest.mark.anyio
async def test_one_address_that_is_not_public_spoils_a_name(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the owner of the name could choose which one is connected to."""
    infos = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(NotPublicError, match=r"mixed\.example"):
            await CheckedNetwork(allow_private=False).connect_tcp("mixed.example", 80, timeout=1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvloop does not tell the interpreter what it does
@pytest.mark.anyio
async def test_a_name_is_resolved_once_and_the_address_is_what_is_connected_to() -> None:
    seen: list[tuple[str, Any]] = []
    is_watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if is_watching and event in ("socket.getaddrinfo", "socket.connect"):
            seen.append((event, arguments[0] if event == "socket.getaddrinfo" else arguments[1][:2]))

    async with ImageHost() as host, asyncio.timeout(SECONDS):
        sys.addaudithook(watch)  # it stays for the life of the process
        stream = await CheckedNetwork(allow_private=True).connect_tcp("localhost", host.port)
        is_watching = False
        await stream.aclose()
    assert seen[0] == ("socket.getaddrinfo", "localhost")
    assert seen[-1] == ("socket.connect", ("127.0.0.1", host.port))
    assert [event for event, _ in seen].count("socket.getaddrinfo") == 1
