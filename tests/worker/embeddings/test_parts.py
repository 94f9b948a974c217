"""How a batch is divided among cores, and that the cores compute."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_encoders import make_tiny_encoder
from worker.embeddings.encoder import Encoder, Row
from worker.embeddings.parts import parts_of


@pytest.mark.parametrize(
    ("lengths", "most", "parts"),
    [
        ([13] * 8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([13], 4, [[0]]),
        ([9, 60, 5, 7], 2, [[2, 3, 0], [1]]),
        ([3, 4, 5], 1, [[0, 1, 2]]),
    ],
)
def test_parts_have_about_the_same_number_of_tokens(lengths: list[int], most: int, parts: list[list[int]]) -> None:
    assert parts_of(lengths, most) == parts


@given(st.lists(st.integers(1, 512), min_size=1, max_size=40), st.integers(1, 8))
def test_every_row_is_in_one_part_and_none_is_much_larger(lengths: Sequence[int], most: int) -> None:
    parts = parts_of(lengths, most)
    assert sorted(number for numbers in parts for number in numbers) == [*range(len(lengths))]
    assert len(parts) <= most
    assert all(parts)
    if len(lengths) >= 2 <= most:
        assert len(parts) >= 2
    largest = max(sum(lengths[number] for number in numbers) for numbers in parts)
    assert largest <= sum(lengths) / most + 2 * max(lengths)


@pytest.mark.skipif(sys.platform != "linux", reason="a GPU has one stream")
@pytest.mark.skipif((psutil.cpu_count() or 1) < 2, reason="one core")
def test_a_batch_is_computed_on_several_cores_and_keeps_its_order(tmp_path: Path) -> None:
    encoder = Encoder(make_tiny_encoder(tmp_path / "model"), lambda _stage, _fraction: None)
    rows = [Row([(number * 7 + place) % 90 for place in range(8 + 5 * (number % 4))]) for number in range(24)]
    alone = mx.concatenate([encoder.run([row]) for row in rows])
    before = _thread_seconds()
    together = [encoder.run(rows) for _ in range(60)][-1]
    assert mx.abs(together - alone).max() < 1e-5
    after = _thread_seconds()
    spent = sorted(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    assert spent[-2] > spent[-1] / 3 > 0, spent


def _thread_seconds() -> dict[int, float]:
    """CPU seconds of MLX's threads. Python's may take more than both: it collects the garbage of all tests before."""
    ours = {thread.native_id for thread in threading.enumerate()}
    threads = psutil.Process().threads()
    return {thread.id: thread.user_time + thread.system_time for thread in threads if thread.id not in ours}
