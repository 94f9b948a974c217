"""Bodies come in small pieces, however they were sent, and other tasks have turns between them."""

import asyncio
import gzip
import os
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from gateway.http.body import PIECE_BYTES, Gunzip, pieces_of
from gateway.http.inference import AppState

pytestmark = pytest.mark.anyio

NOTHING = gzip.compress(b"")


def request_with(body: bytes, coding: str) -> Request[AppState]:
    """Its body comes in one message, which is always there."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope: dict[str, Any] = {"type": "http", "headers": [(b"content-encoding", coding.encode())]}
    return Request(scope, receive)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_pieces_are_small_and_other_tasks_have_turns_between_them(coding: str) -> None:
    body = bytes(4 * 2**20) + os.urandom(2**19) + b"end"
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    request = request_with(gzip.compress(body, 1) if coding == "gzip" else body, coding)
    pieces, at = [], []
    async for piece in pieces_of(request, len(body), "too large"):
        pieces.append(piece)
        at.append(turns)
    task.cancel()
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) == PIECE_BYTES
    assert at == sorted(set(at))


def test_a_bomb_stays_packed() -> None:
    bomb = Gunzip().feed(gzip.compress(bytes(10**7)))
    assert [len(next(bomb)) for _ in range(3)] == [PIECE_BYTES] * 3


@pytest.mark.parametrize("step", [1, 7, 5000, 10**6])
def test_several_members_are_one_text_in_any_pieces(step: int) -> None:
    texts = (b"a" * 600, os.urandom(9000), b"", b"ab" * PIECE_BYTES)
    packed = NOTHING.join(map(gzip.compress, texts))
    gunzip = Gunzip()
    assert gunzip.is_complete
    fed = (packed[start : start + step] for start in range(0, len(packed), step))
    assert b"".join(piece for data in fed for piece in gunzip.feed(data)) == b"".join(texts)
    assert gunzip.is_complete
    assert list(gunzip.feed(NOTHING[:-1])) == [b""]
    assert not gunzip.is_complete
