"""Which batch decodes a vision model's sequences: one for all, or, where rows would disturb each other, one for each of
them, in turns. Found out by computing, whatever the family is called.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import mlx.core as mx

from worker.process.device_errors import is_device_error

# Of the range of a row's logits: rounding in 16 bits, or with quantised weights, stays below 0.01.
_TOLERANCE = 0.03

# Tokens of each row that are compared.
_ROWS = 3

# mlx-vlm's BatchGenerator, empty.
Make = Callable[[], Any]
# What a generator takes beside the tokens of a prompt.
See = Callable[[list[int]], dict[str, Any]]


class VisionBatch(Protocol):
    """What the engine uses of a BatchGenerator. prefill_step_size: read when a prompt begins."""

    prefill_step_size: int | None

    @property
    def has_pending_prompts(self) -> bool:
        """Whether a prompt is not prefilled yet."""

    @property
    def has_work(self) -> bool:
        """Whether anything is live."""

    def insert(self, prompts: list[list[int]], max_tokens: list[int], **rest: Any) -> list[int]:
        """Add one prompt; its uid."""

    def next(self) -> tuple[Any, list[Any]]:
        """A step: (ignored, responses)."""

    def remove(self, uid: int) -> bool:
        """End a sequence."""


def make_batch(make: Make, see: See, stop_tokens: set[int]) -> VisionBatch:
    """One BatchGenerator for all sequences if they can share it. Takes a few forward passes of up to five tokens."""
    batch: VisionBatch = make() if can_share(make, see, stop_tokens) else Turns(make)
    return batch


def reads_as_it_says(make: Make, see: See, stop_tokens: set[int]) -> bool:
    """Whether what follows a token is the same where it is a part of the prompt and where it has been drawn: mlx-vlm
    scales the embeddings of Gemma 3n in decode alone."""
    some = _some(stop_tokens)
    try:
        (drawn,), (read,) = (_logits(make(), see, [some[:size]], some[size:]) for size in (2, 3))
        return _agree(drawn[1:_ROWS], read[: _ROWS - 1])
    except Exception as error:
        if is_device_error(error):  # as below
            raise
        return False


def _some(stop_tokens: set[int]) -> list[int]:
    return [token for token in range(1, 64) if token not in stop_tokens]


def can_share(make: Make, see: See, stop_tokens: set[int]) -> bool:
    """Whether sequences have the same logits alone and together: a short one, a longer one that joins it, and a third
    that begins while both decode."""
    some = _some(stop_tokens)
    prompts, drawn = [some[:2], some[3:8], some[10:13]], some[16:]
    try:
        alone = [_logits(make(), see, [prompt], drawn)[0] for prompt in prompts]
        return all(map(_agree, alone, _logits(make(), see, prompts, drawn)))
    except Exception as error:
        if is_device_error(error):  # it says nothing about the model
            raise
        return False  # a model's code raises what it likes: then its rows cannot share a batch


def join(batch: VisionBatch, sequence: Any) -> int:
    """Add a sequence whose prompt has been read, a GenerationBatch of its own; its uid."""
    if isinstance(batch, Turns):
        return batch.join(sequence)
    generator: Any = batch
    (sequence.uids[0], generator.uid_count) = generator.uid_count, generator.uid_count + 1
    generator._extend_generation_batch(sequence)  # noqa: SLF001 # there is no other way in
    return int(sequence.uids[0])


class Turns:
    """A VisionBatch in which each sequence has a generator of its own. Each step is a step of all of them.

    Mutable: the generators by uid.
    """

    def __init__(self, make: Make) -> None:
        self.prefill_step_size: int | None = None
        self._make = make
        self._generators: dict[int, Any] = {}
        self._uid = 0

    @property
    def has_pending_prompts(self) -> bool:
        """As BatchGenerator."""
        return any(generator.has_pending_prompts for generator in self._generators.values())

    @property
    def has_work(self) -> bool:
        """As BatchGenerator."""
        return bool(self._generators)

    def insert(self, prompts: list[list[int]], max_tokens: list[int], **rest: Any) -> list[int]:
        """As BatchGenerator, for one prompt."""
        generator = self._make()
        generator.prefill_step_size = self.prefill_step_size
        generator.insert(prompts, max_tokens, **rest)
        return [self._add(generator)]

    def join(self, sequence: Any) -> int:
        """As `join`."""
        generator = self._make()
        generator._generation_batch = sequence  # noqa: SLF001 # as above
        return self._add(generator)

    def next(self) -> tuple[Any, list[Any]]:
        """As BatchGenerator."""
        responses = []
        for uid, generator in list(self._generators.items()):
            responses += [replace(response, uid=uid) for response in generator.next()[1]]
            if not generator.has_work:
                self.remove(uid)
        return [], responses

    def remove(self, uid: int) -> bool:
        """As BatchGenerator."""
        return self._generators.pop(uid, None) is not None

    def _add(self, generator: Any) -> int:
        self._uid += 1
        self._generators[self._uid] = generator
        return self._uid


class _Watch:
    """A logits processor that keeps the logits, and goes on with these tokens whatever they say."""

    def __init__(self, drawn: list[int]) -> None:
        self.rows: list[mx.array] = []
        self._drawn = drawn

    def __call__(self, _tokens: mx.array, logits: mx.array) -> mx.array:
        others: mx.array = mx.arange(logits.shape[-1]) != self._drawn[len(self.rows)]
        self.rows.append(logits[0].astype(mx.float32))
        return mx.where(others[None], -mx.inf, mx.zeros_like(logits))


def _logits(generator: Any, see: See, prompts: list[list[int]], drawn: list[int]) -> list[list[mx.array]]:
    """Of each prompt those of its tokens, while the prompts begin one after the other."""
    watches = [_Watch(drawn) for _ in prompts]
    for prompt, watch in zip(prompts, watches, strict=True):
        generator.insert([prompt], [len(drawn)], prompt_kwargs=[see(prompt)], logits_processors=[[watch]])
        while not watch.rows:
            generator.next()
    while len(watches[-1].rows) < _ROWS:
        generator.next()
    return [watch.rows for watch in watches]


def _agree(alone: list[mx.array], beside: list[mx.array]) -> bool:
    """False for NaN, too."""
    for one, other in zip(alone[:_ROWS], beside[:_ROWS], strict=True):
        difference: Any = (mx.abs(one - other).max() / (one.max() - one.min())).item()
        if not difference <= _TOLERANCE:
            return False
    return True
