"""A hundred and fifty mutated requests with a fixed seed; see __main__.py."""

import asyncio
from pathlib import Path

from tests.fuzz.__main__ import fuzz, fuzz_service
from tests.fuzz.requests import request_of


def test_a_request_is_always_the_same_one() -> None:
    first = [request_of(2, number).encode() for number in range(300)]
    assert [request_of(2, number).encode() for number in reversed(range(300))][::-1] == first


def test_no_request_breaks_anything(tmp_path: Path) -> None:
    with fuzz_service(tmp_path) as service:
        figures = asyncio.run(fuzz(service, 150, seed=12))
    assert sum(figures.values()) == 150
    assert figures["400 invalid_request with param"] > 30
    assert figures["200 streamed"] > 2
    assert len(figures) > 6
