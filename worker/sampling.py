"""Which token comes next: one sampler per kind of request, as mlx-lm's BatchGenerator takes them.

Requests of equal parameters share one sampler object, because the batch then samples all rows in one call. A seeded
request has a sampler of its own with its own chain of random keys: it gives the same tokens alone and in company.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_top_p, make_sampler

from broker.protocol import Generate
from worker.engine import RequestError

# Log-probabilities (rows, vocabulary) -> token ids (rows,).
Sampler = Callable[[mx.array], mx.array]

# Below this the most likely token always wins, and dividing by it overflows.
_GREEDY_BELOW = 1e-5


def request_sampler(request: Generate) -> Sampler:
    """The sampler that a request asks for. Raises RequestError."""
    temperature, top_p, seed = float(request.temperature), float(request.top_p), request.seed
    if not (math.isfinite(temperature) and temperature >= 0):
        raise RequestError(f"temperature is {temperature}, a number of at least 0 is expected", param="temperature")
    if not 0 < top_p <= 1:
        raise RequestError(f"top_p is {top_p}, a number above 0 and at most 1 is expected", param="top_p")
    if temperature < _GREEDY_BELOW:
        return _shared_sampler(0.0, 1.0)
    return _shared_sampler(temperature, top_p) if seed is None else _seeded_sampler(temperature, top_p, seed)


@lru_cache(maxsize=64)
def _shared_sampler(temperature: float, top_p: float) -> Sampler:
    sampler: Any = make_sampler(temp=temperature, top_p=top_p)
    return sampler  # type: ignore[no-any-return] # mlx-lm is not read by mypy


def _seeded_sampler(temperature: float, top_p: float, seed: int) -> Sampler:
    key = mx.random.key(seed % 2**64)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, draw = mx.random.split(key)
        if top_p < 1:
            logprobs = apply_top_p(logprobs, top_p)
        return mx.random.categorical(logprobs * (1 / temperature), key=draw)

    return sample
