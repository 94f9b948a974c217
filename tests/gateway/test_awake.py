"""Timeouts go by a clock that stands still while the machine sleeps."""

import asyncio
import time

import pytest

from gateway import awake
from gateway.awake import awake_timeout
from tests.gateway.played_broker import SECONDS

pytestmark = pytest.mark.anyio


async def test_it_ends_what_takes_too_long() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with awake_timeout(0.2):
            await asyncio.sleep(SECONDS)
    assert 0.14 <= time.monotonic() - began < SECONDS


async def test_it_leaves_alone_what_is_in_time() -> None:
    async with awake_timeout(0.1):
        await asyncio.sleep(0)
    await asyncio.sleep(0.15)  # and its timer has gone


async def test_while_the_machine_sleeps_nothing_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers of the loop come early then."""
    fell_asleep_at, slept = time.monotonic(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, slept.set)
    monkeypatch.setattr(awake, "monotonic", lambda: time.monotonic() if slept.is_set() else fell_asleep_at)
    async with awake_timeout(0.1):
        await slept.wait()


async def test_other_ends_pass_through() -> None:
    with pytest.raises(ValueError, match="its own"):
        async with awake_timeout(SECONDS):
            raise ValueError("its own")
