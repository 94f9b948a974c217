"""The interface between the text engine and what computes its sequences: in one batch, in turns, or another way.

An implementation owns the model's forward passes and the key-value caches of live sequences. It knows nothing of
requests, text or outputs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from worker.cache.disk.layers import BlockForm
from worker.generation.sampling import LogitsProcessor, Sampler


class Held(NamedTuple):
    """The key-value caches of one sequence, one for each layer, and the tokens that they hold."""

    cache: list[Any]
    tokens: list[int]


@dataclass(slots=True)  # not frozen: one per token
class Decoded:
    """One token of one sequence. logprobs: what it was drawn from (vocabulary,), if the sequence wants that.

    finish_reason: `stop` after an end-of-text token, `length` after max_tokens, else None. A sequence with a reason has
    left the batch, and `held` is what its caches hold.
    """

    uid: int
    token: int
    logprobs: mx.array | None
    finish_reason: str | None = None
    held: Held | None = None


class BatchCounts(NamedTuple):
    """Sequences by stage."""

    waiting: int
    prefilling: int
    decoding: int


class Batch(Protocol):
    """Sequences of one model. All methods but `counts` are called from one thread.

    is_padded: whether the caches of every sequence take as much memory as those of the longest. prefilled: how many
    prompt tokens have been computed so far, padding left out. decode_steps: how many steps of decode have been launched
    behind another; late_steps: those of them that had not been launched in whole when the device was done with the
    one before, so that it may have waited. Both 0 where that is not known.
    """

    is_padded: bool
    prefilled: int
    decode_steps: int
    late_steps: int

    def insert(
        self,
        segments: list[list[int]],
        max_tokens: int,
        *,
        cache: list[Any] | None,
        tokens: list[int],
        sampler: Sampler,
        processors: list[LogitsProcessor],
        wants_logprobs: bool,
    ) -> int:
        """Take a sequence; its uid.

        segments: the prompt, in parts; prefill pauses at the end of each. cache: holds `tokens`, which precede the
        segments; None if there are none. Raises ValueError for an empty prompt or a max_tokens below 1.
        """

    def next(self) -> tuple[list[int], list[Decoded]]:
        """One bounded step: (uids whose prefill has reached the end of a segment that is not the last, tokens). An
        implementation may also name a uid before the last token of its prompt."""

    def extract_cache(self, uids: Iterable[int]) -> dict[int, Held]:
        """Copies of the caches of these sequences."""

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """The uids of all sequences that have begun, each with the tokens that `extract_cache` would give."""

    def settled(self) -> Iterator[tuple[int, list[int], int]]:
        """Sequences that have begun: (uid, tokens, how many of them will stay in the caches as they are). What an
        implementation does not name is written to disk when it has ended."""

    def layers(self, uid: int) -> list[Any]:
        """The caches of a sequence that has begun, perhaps with others in them; not to be changed."""

    def copies(self, uid: int, begin: int, end: int, form: BlockForm) -> dict[str, mx.array]:
        """Keys and values of these tokens in arrays of this form, lazily. Only where caches can be shortened."""

    def remove(self, uids: Iterable[int], *, return_prompt_caches: bool = False) -> dict[int, Held]:
        """Drop sequences. Their caches where asked for, else nothing."""

    def bound_step(self, tokens: int) -> None:
        """At most so many prompt tokens in a step from now on, and never more than at the beginning."""

    def hold_prefill(self, is_held: bool) -> None:
        """Whether the next steps may only decode, until this is called again."""

    def counts(self) -> BatchCounts:
        """May be called from any thread, also during a step."""
