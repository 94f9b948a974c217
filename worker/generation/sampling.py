"""Samplers and logits processors of requests.

Requests with equal parameters share one sampler object, so that a batch samples all their rows in one call. A seeded
request has its own sampler with its own chain of random keys: it gives the same tokens alone and in a batch. Values
that mlx-lm would refuse in the middle of a step, which would end the whole batch, are refused here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, apply_xtc, make_logits_processors, make_sampler

from broker.wire.failure import invalid
from broker.wire.work import Generate

# Log-probabilities (rows, vocabulary) -> token ids (rows,).
Sampler = Callable[[mx.array], mx.array]

# (the tokens so far, logits of one row (1, vocabulary)) -> logits.
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


class Follower(ABC):
    """A logits processor that must see each token of its sequence once, in order: no draft may be taken back."""

    @abstractmethod
    def __call__(self, tokens: mx.array, logits: mx.array, /) -> mx.array:
        """As LogitsProcessor."""

    @abstractmethod
    def catch_up(self, said: list[int]) -> None:
        """Take the tokens that the answer has already, as if they had been drawn here. Called before the first step,
        which then has them all."""


# The most likely token. Logits give the same result as log-probabilities.
GREEDY: Sampler = partial(mx.argmax, axis=-1)

# Below this temperature or top_p the most likely token always wins; dividing by such a temperature overflows.
_GREEDY_BELOW = 1e-5

# At this temperature all tokens are equally likely, to 1 %. A higher one makes the factor 0 in float16 and, far beyond,
# in float32: tokens that a filter or constraint has excluded would become NaN.
_MOST_TEMPERATURE = 10_000.0

# field -> its least and its greatest value.
_RANGES = {
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "top_k": (-1, math.inf),
    "min_p": (0, 1),
    "top_n_sigma": (-1, math.inf),
    "typical_p": (0, 1),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 0.5),
    "repetition_penalty": (0, math.inf),
    "presence_penalty": (-math.inf, math.inf),
    "frequency_penalty": (-math.inf, math.inf),
    "repetition_context_size": (0, math.inf),
    "presence_context_size": (0, math.inf),
    "frequency_context_size": (0, math.inf),
}


@dataclass(slots=True, frozen=True)
class _Sampling:
    """Parameters of a sampler; 0 is off, for top_p and typical_p 1 is."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    xtc_probability: float
    xtc_threshold: float
    top_n_sigma: float
    typical_p: float


def request_sampler(request: Generate, vocabulary: int, kept: tuple[int, ...] = (), *, drawn: int = 0) -> Sampler:
    """The sampler that a request asks for. kept: tokens that XTC never removes; drawn: how many tokens its answer has
    already. Raises FailureError."""
    _check_ranges(request)
    temperature = min(float(request.temperature), _MOST_TEMPERATURE)
    if is_greedy(request):
        return GREEDY
    xtc = request.xtc_probability > 0
    sampling = _Sampling(
        temperature=temperature,
        top_p=float(request.top_p),
        top_k=request.top_k if 0 < request.top_k < vocabulary else 0,
        min_p=float(request.min_p),
        xtc_probability=float(request.xtc_probability),
        xtc_threshold=float(request.xtc_threshold) if xtc else 0.1,
        top_n_sigma=max(float(request.top_n_sigma), 0.0),
        typical_p=float(request.typical_p),
    )
    kept = kept if xtc else ()
    if request.seed is None:
        return _shared_sampler(sampling, kept)
    return _seeded_sampler(sampling, kept, request.seed, drawn)


def is_greedy(request: Generate) -> bool:
    """Whether the most likely token always wins: of a top_p of 0 it is all that is left."""
    return request.temperature < _GREEDY_BELOW or request.top_p < _GREEDY_BELOW


def request_processors(request: Generate, vocabulary: int) -> list[LogitsProcessor]:
    """The processors that change the logits before sampling, none for most requests. Raises FailureError."""
    if not (request.logit_bias or request.repetition_penalty or request.presence_penalty or request.frequency_penalty):
        return []
    _check_ranges(request)
    processors: Any = make_logits_processors(
        logit_bias=_bias(request.logit_bias, vocabulary),
        repetition_penalty=0 if request.repetition_penalty == 1 else request.repetition_penalty,
        repetition_context_size=request.repetition_context_size,
        presence_penalty=request.presence_penalty,
        presence_context_size=request.presence_context_size,
        frequency_penalty=request.frequency_penalty,
        frequency_context_size=request.frequency_context_size,
    )
    return processors  # type: ignore[no-any-return] # mlx-lm is not read by mypy


def _check_ranges(request: Generate) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(request, name)
        if not math.isfinite(value) or not least <= value <= most:
            limits = f"at least {least}" + ("" if most == math.inf else f" and at most {most}")
            raise invalid(f"{name} must be a number of {limits}, not {value}", param=name)


def _bias(given: dict[str, float], vocabulary: int) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not (token.isascii() and token.isdigit() and int(token) < vocabulary):
            raise invalid(f"logit_bias: {token!r} is not a token id from 0 to {vocabulary - 1}", param="logit_bias")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise invalid(f"logit_bias: {value!r} is not a number", param="logit_bias")
        bias[int(token)] = float(value)
    return bias


@lru_cache(maxsize=64)
def _shared_sampler(sampling: _Sampling, kept: tuple[int, ...]) -> Sampler:
    sampler: Any = make_sampler(
        temp=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        top_k=sampling.top_k,
        xtc_probability=sampling.xtc_probability,
        xtc_threshold=sampling.xtc_threshold,
        xtc_special_tokens=list(kept),
    )
    if sampling.top_n_sigma or sampling.typical_p < 1:
        return lambda logprobs: sampler(_likely(sampling, logprobs))
    return sampler  # type: ignore[no-any-return] # mlx-lm is not read by mypy


def _likely(sampling: _Sampling, logprobs: mx.array) -> mx.array:
    """What mlx-lm does not have, before what it has."""
    if sampling.top_n_sigma:
        logprobs = _top_n_sigma(logprobs, sampling.top_n_sigma)
    return _typical(logprobs, sampling.typical_p) if sampling.typical_p < 1 else logprobs


def _top_n_sigma(logprobs: mx.array, sigmas: float) -> mx.array:
    """Without tokens that are more than so many standard deviations below the most likely one. The deviation is that
    of the logits of all tokens that are possible (top-n-sigma, https://arxiv.org/abs/2411.07641)."""
    exact = logprobs.astype(mx.float32)
    possible = exact > -mx.inf
    count = possible.sum(axis=-1, keepdims=True)
    mean = mx.where(possible, exact, 0).sum(axis=-1, keepdims=True) / count
    variance = mx.where(possible, mx.square(exact - mean), 0).sum(axis=-1, keepdims=True) / count
    least = exact.max(axis=-1, keepdims=True) - sigmas * mx.sqrt(variance)
    return mx.where(exact < least, -mx.inf, logprobs)


def _typical(logprobs: mx.array, mass: float) -> mx.array:
    """Only the tokens whose surprise is closest to the expected one, the entropy, until they have this probability
    together; at least one (locally typical sampling, https://arxiv.org/abs/2202.00666)."""
    exact = logprobs.astype(mx.float32)
    exact = exact - mx.logsumexp(exact, axis=-1, keepdims=True)
    probabilities = mx.exp(exact)
    entropy = -mx.where(probabilities > 0, probabilities * exact, 0).sum(axis=-1, keepdims=True)
    order = mx.argsort(mx.abs(-exact - entropy), axis=-1)
    ranked = mx.take_along_axis(probabilities, order, axis=-1)
    before = mx.cumsum(ranked, axis=-1) - ranked  # the probability of all that are more typical
    is_first = mx.arange(order.shape[-1]) == 0
    stays = mx.put_along_axis(mx.zeros(order.shape, mx.bool_), order, mx.logical_or(before < mass, is_first), axis=-1)
    return mx.where(stays, logprobs, -mx.inf)


# Keys that are computed together: each is made of the one before.
_KEYS_AT_ONCE = 256


def _seeded_sampler(sampling: _Sampling, kept: tuple[int, ...], seed: int, tokens: int) -> Sampler:
    # The steps of make_sampler, in its order, but every random number comes from this request's own keys: the same
    # numbers that mlx-lm draws after mx.random.seed if nothing else draws.
    key = mx.random.key(seed % 2**64)

    def draw() -> mx.array:
        nonlocal key
        key, drawn = mx.random.split(key)
        return drawn

    for number in range(tokens * (2 if sampling.xtc_probability > 0 else 1)):
        draw()
        if number % _KEYS_AT_ONCE == 0:
            mx.eval(key)

    def sample(logprobs: mx.array) -> mx.array:
        logprobs = _likely(sampling, logprobs)
        if sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = apply_min_p(logprobs, sampling.min_p)
        if sampling.xtc_probability > 0:
            # With a probability of 1 its own random number has no effect.
            without_top = apply_xtc(logprobs, 1.0, sampling.xtc_threshold, list(kept))
            is_spared = mx.random.uniform(key=draw()) > sampling.xtc_probability
            logprobs = mx.where(is_spared, logprobs, without_top)
        if sampling.top_k > 0:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=draw())

    return sample
