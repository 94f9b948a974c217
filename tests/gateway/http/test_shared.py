"""One answer for many, without sockets."""

import asyncio

import pytest

from gateway.http.shared import SharedAnswer

pytestmark = pytest.mark.anyio


class Source:
    """Answers with the number of times that it was asked, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.was_asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.fails = False

    async def fetch(self) -> bytes:
        self.asked += 1
        self.was_asked.set()
        number = self.asked
        await self.open.wait()
        if self.fails:
            raise ConnectionError
        return b"%d" % number


async def test_who_asks_for_the_newest_gets_it() -> None:
    shared, source = SharedAnswer(), Source()
    assert [await shared.get(0, source.fetch) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_many_at_once_share_one() -> None:
    shared, source = SharedAnswer(), Source()
    source.open.clear()
    asking = [asyncio.create_task(shared.get(60, source.fetch)) for _ in range(20)]
    await source.was_asked.wait()
    source.open.set()
    assert await asyncio.gather(*asking) == [b"1"] * 20
    assert await shared.get(60, source.fetch) == b"1"


async def test_many_share_one_that_comes_slowly() -> None:
    """Else each of them would wait for one of its own, after those of all before it."""
    now = 100.0
    shared, source = SharedAnswer(lambda: now), Source()
    source.open.clear()
    asking = [asyncio.create_task(shared.get(0.5, source.fetch)) for _ in range(20)]
    await source.was_asked.wait()
    now = 102.0
    source.open.set()
    assert await asyncio.gather(*asking) == [b"1"] * 20
    assert await shared.get(0.5, source.fetch) == b"2"


async def test_an_answer_that_is_too_old_is_asked_for_again() -> None:
    now = 100.0
    shared, source = SharedAnswer(lambda: now), Source()
    assert await shared.get(2, source.fetch) == b"1"
    now = 102.0
    assert await shared.get(2, source.fetch) == b"1"
    now = 102.1
    assert await shared.get(2, source.fetch) == b"2"
    assert await shared.get(2, source.fetch) == b"2"


async def test_the_newest_for_one_is_there_for_the_others() -> None:
    shared, source = SharedAnswer(), Source()
    assert await shared.get(0, source.fetch) == b"1"
    assert await shared.get(60, source.fetch) == b"1"


async def test_a_failure_is_not_kept() -> None:
    shared, source = SharedAnswer(), Source()
    source.fails = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await shared.get(60, source.fetch)
    source.fails = False
    assert await shared.get(60, source.fetch) == b"3"


async def test_who_leaves_does_not_keep_the_others_waiting() -> None:
    shared, source = SharedAnswer(), Source()
    source.open.clear()
    first = asyncio.create_task(shared.get(60, source.fetch))
    second = asyncio.create_task(shared.get(60, source.fetch))
    await source.was_asked.wait()
    first.cancel()
    source.open.set()
    assert await second == b"2"
