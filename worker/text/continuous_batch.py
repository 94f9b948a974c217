"""Many sequences of one model in one batch: prompts prefill piece by piece, then every step decodes a token of each.

Does what mlx-lm's BatchGenerator does, on mlx-lm's caches, but computes only what is read: log-probabilities for rows
that ask, masks where rows are padded, no step after the last token. A prompt's last piece, its first token and its
answer come in one step instead of three. docs/benchmarks.md has the figures. Knows nothing of requests.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.generation.sampling import LogitsProcessor, Sampler
from worker.text.batch import BatchCounts, Decoded, Held
from worker.text.draw import draw, numbers
from worker.text.rows import Group, Row, grouped

# Prefill steps, at most, between two decode steps.
_PREFILL_STEPS = 8

# Decode steps between two returns of unused memory, as in BatchGenerator.
_CLEAR_EVERY = 512

# Bytes of unused memory that may stay after prefill. BatchGenerator returns all of it each time, which costs a small
# model more time than the memory is worth.
_MOST_UNUSED_BYTES = 32 * 2**20


class ContinuousBatch:
    """Mutable state: the sequences that wait, each with its caches, those that prefill, and those that decode; how many
    prompt tokens have been prefilled since the last decode step."""

    is_padded = True

    def __init__(
        self,
        model: Any,
        *,
        stop_tokens: Iterable[int],
        completion_batch_size: int,
        prefill_batch_size: int,
        prefill_step_size: int,
        stream: mx.Stream,
    ) -> None:
        """Limits: sequences at once, prompts that prefill together, and tokens of each prompt in one step. stream:
        where everything is computed."""
        self._model = model
        self._stop_tokens = frozenset(stop_tokens)
        self._completion_batch_size = completion_batch_size
        self._prefill_batch_size = prefill_batch_size
        self._prefill_step_size = prefill_step_size
        self._stream = stream
        self._next_uid = 0
        self._steps = 0
        self._prefilled_since = 0
        self._waiting: deque[tuple[Row, list[Any]]] = deque()
        self._prefilling = Group()
        self._decoding = Group()

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
        """As in Batch."""
        parts = deque(part for part in segments if part)
        if not parts or max_tokens < 1:
            raise ValueError("a sequence needs a prompt and room for a token")
        row = Row(self._next_uid, parts, list(tokens), sampler, processors, wants_logprobs, max_tokens)
        self._waiting.append((row, make_prompt_cache(self._model) if cache is None else cache))
        self._next_uid += 1
        return row.uid

    def next(self) -> tuple[list[int], list[Decoded]]:
        """Prefill a piece of each prompt and return the first tokens of prompts that are complete, or decode a token of
        each sequence. Prefill comes first until it has taken a step's worth of tokens, and for a few steps at most."""
        with mx.stream(self._stream):
            has_prompts = bool(self._prefilling.rows) or self._room > 0
            if self._decoding.rows and not (has_prompts and self._prefilled_since < self._prefill_step_size):
                self._prefilled_since = 0
                return [], self._decode()
            return self._prefill()

    def extract_cache(self, uids: Iterable[int]) -> dict[int, Held]:
        """As in Batch. Of a sequence that waits: the caches themselves, not a copy."""
        wanted = set(uids)
        found = {row.uid: Held(cache, row.tokens) for row, cache in self._waiting if row.uid in wanted}
        for group in (self._prefilling, self._decoding):
            for index, row in enumerate(group.rows):
                if row.uid in wanted:
                    found[row.uid] = Held(group.cache(index), row.tokens)
        return found

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """As in Batch."""
        for row in (*self._prefilling.rows, *self._decoding.rows):
            yield row.uid, row.tokens

    def remove(self, uids: Iterable[int], *, return_prompt_caches: bool = False) -> dict[int, Held]:
        """As in Batch."""
        gone = set(uids)
        with mx.stream(self._stream):
            removed = self.extract_cache(gone) if return_prompt_caches else {}
            self._waiting = deque((row, cache) for row, cache in self._waiting if row.uid not in gone)
            for group in (self._prefilling, self._decoding):
                group.keep([index for index, row in enumerate(group.rows) if row.uid not in gone])
        return removed

    def counts(self) -> BatchCounts:
        """As in Batch."""
        return BatchCounts(len(self._waiting), len(self._prefilling.rows), len(self._decoding.rows))

    @property
    def _room(self) -> int:
        """How many waiting sequences may begin now."""
        prefilling = len(self._prefilling.rows)
        return min(
            self._completion_batch_size - len(self._decoding.rows) - prefilling,
            self._prefill_batch_size - prefilling,
            len(self._waiting),
        )

    def _prefill(self) -> tuple[list[int], list[Decoded]]:
        admitted = [self._waiting.popleft() for _ in range(self._room)]
        begun = self._prefilling.take([index for index, row in enumerate(self._prefilling.rows) if row.has_last])
        begun.add(grouped([one for one in admitted if one[0].has_last]))
        self._prefilling.add(grouped([one for one in admitted if not one[0].has_last]))
        size, ends = self._prefill_pieces(self._prefilling)
        # The caller looks at the end of a segment before any more of that prompt is prefilled.
        complete = [index for index, row in enumerate(self._prefilling.rows) if row.has_last and row.uid not in ends]
        begun.add(self._prefilling.take(complete))
        self._prefilled_since += max(size + len(begun.rows), self._prefill_step_size // _PREFILL_STEPS)
        decoded = self._begin(begun) if begun.rows else []
        if mx.get_cache_memory() > _MOST_UNUSED_BYTES:
            mx.clear_cache()
        return ends, decoded

    def _prefill_pieces(self, group: Group) -> tuple[int, list[int]]:
        """A piece of every prompt: the number of tokens, and the uids whose segment ends here."""
        if not group.rows:
            return 0, []
        pieces, ends = zip(*(row.take(self._prefill_step_size) for row in group.rows), strict=True)
        lengths = list(map(len, pieces))
        longest = max(lengths)
        padding = [longest - length for length in lengths]
        if any(padding):
            for cache in group.caches:
                cache.prepare(lengths=lengths, right_padding=padding)
        padded = [piece + [0] * pad for piece, pad in zip(pieces, padding, strict=True)]
        self._model(mx.array(padded), cache=group.caches)
        if any(padding):
            for cache in group.caches:
                cache.finalize()
        for row, piece in zip(group.rows, pieces, strict=True):
            row.tokens += piece
        group.mark_padding()
        if any(end or not row.has_last for row, end in zip(group.rows, ends, strict=True)):
            # The other rows are computed with their first tokens.
            mx.eval([cache.state for cache in group.caches])
        return sum(lengths), [row.uid for row, end in zip(group.rows, ends, strict=True) if end]

    def _begin(self, group: Group) -> list[Decoded]:
        """The first tokens of these sequences, which have one prompt token left; they decode from now on."""
        last = [row.segments.popleft()[0] for row in group.rows]
        drawn = draw(self._model, group, mx.array(last)[:, None])
        for row, token in zip(group.rows, last, strict=True):
            row.tokens.append(token)
        decoded = self._hand_out(group, numbers(drawn), group.logprobs)
        for row in group.rows:
            row.is_ahead = True
        self._decoding.add(group)
        return decoded

    def _decode(self) -> list[Decoded]:
        """The tokens that the last step has drawn. The next step is launched before these are waited for."""
        group = self._decoding
        drawn, logprobs = group.drawn, group.logprobs
        assert drawn is not None
        goes_on = any(row.is_ahead or row.left > 1 for row in group.rows)
        if goes_on:
            draw(self._model, group, drawn)
        tokens = numbers(drawn)
        if goes_on:
            for row, token in zip(group.rows, tokens, strict=True):
                row.tokens.append(token)
            self._steps += 1
            if self._steps % _CLEAR_EVERY == 0:
                mx.clear_cache()
        return self._hand_out(group, tokens, logprobs)

    def _hand_out(self, group: Group, tokens: list[int], logprobs: list[mx.array | None]) -> list[Decoded]:
        """These tokens, one drawn for each row of the group; rows that end with theirs leave the group."""
        decoded = []
        kept = []
        for index, (row, token, logprob) in enumerate(zip(group.rows, tokens, logprobs, strict=True)):
            if row.is_ahead:
                row.is_ahead = False
                kept.append(index)
                continue
            row.left -= 1
            reason = "stop" if token in self._stop_tokens else None if row.left else "length"
            if reason is None:
                kept.append(index)
                decoded.append(Decoded(row.uid, token, logprob))
            else:
                decoded.append(Decoded(row.uid, token, logprob, reason, Held(group.cache(index), row.tokens)))
        group.keep(kept)
        return decoded
