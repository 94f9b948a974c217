"""Who sends a body may pause for some seconds in all, and gets them back for bytes."""

import pytest

from gateway.core.pauses import Pauses


def in_time(*chunks: tuple[float, int]) -> int:
    """How many of them come in time: each so many bytes, after so many seconds."""
    pauses = Pauses(most=60, rate=500)
    return next((number for number, (waited, size) in enumerate(chunks) if not pauses.comes(size, waited)), len(chunks))


@pytest.mark.parametrize(
    ("chunks", "good"),
    [
        ([(59, 0)], 1),
        ([(60, 0)], 0),
        ([(59, 1)] * 3, 1),
        ([(1, 500)] * 10_000, 10_000),
        ([(1, 375)] * 1000, 239),
        ([(59, 29_500)] * 100, 100),
        ([(59, 25_000)] * 100, 6),
    ],
    ids=["a pause", "a longer one", "drips", "slow", "too slow", "in bursts", "in small bursts"],
)
def test_how_long_a_body_may_take(chunks: list[tuple[float, int]], good: int) -> None:
    assert in_time(*chunks) == good


def test_what_has_been_fast_has_no_more_pauses_than_others() -> None:
    assert in_time((1, 10**9), (59, 1), (59, 1)) == 2
