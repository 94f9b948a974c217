"""Many sequences of one model in one batch: prompts prefill piece by piece, then every step decodes a token of each.

Does what mlx-lm's BatchGenerator does, on mlx-lm's caches, but computes only what is read: log-probabilities for rows
that ask, masks where rows are padded, no step after the last token. A prompt's last piece, its first token and its
answer come in one step instead of three. docs/benchmarks.md has the figures. Knows nothing of requests.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from time import monotonic
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from worker.cache.disk.layers import BlockForm, copies, slices
from worker.generation.choice import LOOK, Choice, Part, choose, has_short
from worker.generation.pace import Pace
from worker.generation.sampling import LogitsProcessor, Sampler
from worker.text.batch import BatchCounts, Decoded, Held
from worker.text.draw import draw, numbers
from worker.text.rows import Group, Row, grouped

# Decode steps between two returns of unused memory, as in BatchGenerator.
_CLEAR_EVERY = 512

# Decode steps after which the caches are computed in full. Layers without RoPE never read their `offset`: each step
# would add an operation, and its operand's memory, to what is still to be computed.
_SETTLE_EVERY = 32

# Tokens that are read in less were there already: 32 that are known take 5 µs, and to wait for a device takes far more.
_AT_ONCE_SECONDS = 20e-6

# Bytes of unused memory that may stay after prefill. BatchGenerator returns all of it each time, which costs a small
# model more time than the memory is worth.
_MOST_UNUSED_BYTES = 32 * 2**20


class ContinuousBatch:
    """Mutable state: the sequences that wait, each with its caches; groups of those that prefill, oldest first; those
    that decode; how much prefill may take now; and how many prompt tokens have been computed."""

    is_padded = True

    def __init__(
        self,
        model: Any,
        *,
        stop_tokens: Iterable[int],
        completion_batch_size: int,
        prefill_batch_size: int,
        pace: Pace,
        stream: mx.Stream,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Limits: sequences at once, and prompts that prefill together. stream: where everything is computed. clock:
        seconds."""
        self._model = model
        self._stop_tokens = frozenset(stop_tokens)
        self._completion_batch_size = completion_batch_size
        self._prefill_batch_size = prefill_batch_size
        self._pace = pace
        self._stream = stream
        self._clock = clock
        self._next_uid = 0
        self.prefilled = self.decode_steps = self.late_steps = 0
        self._waiting: deque[tuple[Row, list[Any]]] = deque()
        self._prefilling: list[Group] = []
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
        row.prompt = [*tokens, *chain.from_iterable(parts)]
        self._next_uid += 1
        if not (self._free > 0 and _joined(row, (one for group in self._prefilling for one in group.rows))):
            self._waiting.append((row, make_prompt_cache(self._model) if cache is None else cache))
        return row.uid

    def next(self) -> tuple[list[int], list[Decoded]]:
        """Prefill a piece of some prompts and return the first tokens of those that are complete, or decode a token of
        each sequence."""
        with mx.stream(self._stream):
            choice = self._choose()
            if choice is not None:
                return self._prefill(choice)
            if not self._decoding.rows:
                return [], []
            decoded = self._decode()
            self._pace.decoded(self._clock())
            return [], decoded

    def extract_cache(self, uids: Iterable[int]) -> dict[int, Held]:
        """As in Batch. Of a sequence that waits: the caches themselves, not a copy."""
        wanted = set(uids)
        found = {row.uid: Held(cache, row.tokens) for row, cache in self._waiting if row.uid in wanted}
        for group in (*self._prefilling, self._decoding):
            for index, row in enumerate(group.rows):
                if row.uid in wanted:
                    found[row.uid] = Held(group.cache(index), row.tokens)
        return found

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """As in Batch."""
        for group in (*self._prefilling, self._decoding):
            for row in group.rows:
                yield row.uid, row.tokens

    def settled(self) -> Iterator[tuple[int, list[int], int]]:
        """As in Batch."""
        for group in (*self._prefilling, self._decoding):
            for row in group.rows:
                yield row.uid, row.tokens, len(row.tokens)

    def layers(self, uid: int) -> list[Any]:
        """As in Batch."""
        return self._place(uid)[0].caches

    def copies(self, uid: int, begin: int, end: int, form: BlockForm) -> dict[str, mx.array]:
        """As in Batch."""
        group, index = self._place(uid)
        tokens = len(group.rows[index].tokens)
        with mx.stream(self._stream):
            layers = [
                slices(cache, index, cache.size() - tokens + begin, cache.size() - tokens + end)
                for cache in group.caches
            ]
            return copies(form, [part for layer in layers for part in layer])

    def remove(self, uids: Iterable[int], *, return_prompt_caches: bool = False) -> dict[int, Held]:
        """As in Batch."""
        gone = set(uids)
        with mx.stream(self._stream):
            removed = self.extract_cache(gone) if return_prompt_caches else {}
            self._waiting = deque((row, cache) for row, cache in self._waiting if row.uid not in gone)
            for group in (*self._prefilling, self._decoding):
                group.remove(gone)
            self._prefilling = [group for group in self._prefilling if group.rows]
        return removed

    def bound_step(self, tokens: int) -> None:
        """As in Batch."""
        self._pace.bound(tokens)

    def hold_prefill(self, is_held: bool) -> None:
        """As in Batch."""
        self._pace.is_held = is_held

    def counts(self) -> BatchCounts:
        """As in Batch."""
        prefilling = sum(group.size for group in list(self._prefilling))
        return BatchCounts(len(self._waiting), prefilling, len(self._decoding.rows))

    def _place(self, uid: int) -> tuple[Group, int]:
        for group in (*self._prefilling, self._decoding):
            for index, row in enumerate(group.rows):
                if row.uid == uid:
                    return group, index
        raise KeyError(uid)

    @property
    def _room(self) -> int:
        """How many waiting sequences may begin together now."""
        return min(self._free, self._prefill_batch_size, len(self._waiting)) if self._waiting else 0

    @property
    def _free(self) -> int:
        """How many more sequences may be in the batch."""
        return self._completion_batch_size - sum(group.size for group in (*self._prefilling, self._decoding))

    def _choose(self) -> Choice | None:
        room = self._room
        if not (self._prefilling or room):
            return None
        begun = [_part(group.rows) for group in self._prefilling]
        beside = bool(self._decoding.rows)
        return choose(self._pace, begun, self._waiting_parts, room=room, now=self._clock(), beside=beside)

    @property
    def _has_short(self) -> bool:
        """Whether a prompt waits that may begin in one step."""
        if not self._room:
            return False
        return has_short(self._pace, self._waiting_parts, now=self._clock(), beside=True)

    @property
    def _waiting_parts(self) -> list[Part]:
        return [_part([row]) for row, _ in islice(self._waiting, LOOK)]

    def _prefill(self, choice: Choice) -> tuple[list[int], list[Decoded]]:
        began, beside = self._clock(), bool(self._decoding.rows)
        if choice.begun is None:
            admitted = self._admit(choice.newcomers)
            complete = grouped([one for one in admitted if one[0].has_last])
            group = grouped([one for one in admitted if not one[0].has_last])
            self._prefilling.append(group)
        else:
            group = self._prefilling[choice.begun]
            complete = group.take([index for index, row in enumerate(group.rows) if row.has_last])
        context = max(len(row.tokens) for row in (*group.rows, *complete.rows))
        size, ends = self._launch_piece(group, choice.tokens)
        # The caller looks at the end of a segment before any more of that prompt is prefilled.
        complete.add(group.take([i for i, row in enumerate(group.rows) if row.has_last and row.uid not in ends]))
        size += len(complete.rows)
        self._prefilling = [one for one in self._prefilling if one.rows]
        waited = 0.0
        if complete.rows:
            complete.spread()
            self._launch_first(complete)
        if beside:
            # The step of those who decode was launched before: its time is not that of this piece.
            launched = self._clock()
            mx.eval(self._decoding.drawn)
            waited = self._clock() - launched
            self._pace.waited(waited)
        # The next step of all is launched before the first tokens are waited for, unless that would delay them or
        # another prompt.
        steps = bool(complete.rows) and self._pace.hides_launches and not self._has_short
        decoded = self._begin(complete, steps=steps) if complete.rows else []
        if group.rows:
            mx.eval([cache.state for cache in group.caches])
        seconds = self._clock() - began - waited
        self._pace.prefilled(size, context, began, seconds, beside=beside, in_whole=choice.in_whole)
        if steps:
            self._pace.decoded(began + waited + seconds)
        if mx.get_cache_memory() > _MOST_UNUSED_BYTES:
            mx.clear_cache()
        return ends, decoded

    def _admit(self, indices: list[int]) -> list[tuple[Row, list[Any]]]:
        """Take these out of those that wait, each prompt once, with others that have the same prompts."""
        free = self._free - len(indices)
        admitted = [self._waiting[index] for index in indices]
        for index in reversed(indices):
            del self._waiting[index]
        different: list[tuple[Row, list[Any]]] = []
        for row, cache in admitted:
            if not _joined(row, (one for one, _ in different)):
                different.append((row, cache))
        alike: set[int] = set()
        for row, _ in islice(self._waiting, LOOK):
            if len(alike) < free and _joined(row, (one for one, _ in different)):
                alike.add(row.uid)
        if alike:
            self._waiting = deque((row, cache) for row, cache in self._waiting if row.uid not in alike)
        return different

    def _launch_piece(self, group: Group, most: int) -> tuple[int, list[int]]:
        """A piece of every prompt: its tokens with their padding, and the uids whose segment ends here."""
        if not group.rows:
            return 0, []
        pieces, ends = zip(*(row.take(most) for row in group.rows), strict=True)
        lengths = list(map(len, pieces))
        longest = max(lengths)
        self.prefilled += sum(lengths)
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
            mx.async_eval([cache.state for cache in group.caches])  # type: ignore[no-untyped-call]
        return longest * len(lengths), [row.uid for row, end in zip(group.rows, ends, strict=True) if end]

    def _launch_first(self, group: Group) -> None:
        """Draw the first tokens of these sequences, which have one prompt token left."""
        last = [row.segments.popleft()[0] for row in group.rows]
        self.prefilled += len(last)
        draw(self._model, group, mx.array(last)[:, None])
        for row, token in zip(group.rows, last, strict=True):
            row.tokens.append(token)
            row.prompt = []

    def _begin(self, group: Group, *, steps: bool) -> list[Decoded]:
        """The first tokens of these sequences, which decode from now on. steps: with the next step of all."""
        if steps:
            self._decoding.add(group)
            return self._decode()
        assert group.drawn is not None
        decoded = self._hand_out(group, numbers(group.drawn), group.logprobs)
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
            if self.decode_steps % _SETTLE_EVERY == 0:
                mx.async_eval([cache.state for cache in group.caches])  # type: ignore[no-untyped-call]
        launched = self._clock()
        tokens = numbers(drawn)
        if goes_on:
            self.late_steps += self._clock() - launched < _AT_ONCE_SECONDS
            for row, token in zip(group.rows, tokens, strict=True):
                row.tokens.append(token)
            self.decode_steps += 1
            if self.decode_steps % _CLEAR_EVERY == 0:
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


def _joined(row: Row, rows: Iterable[Row]) -> bool:
    """Whether it has become the twin of one of these rows, because both have the same prompt."""
    for one in rows:
        if one.prompt == row.prompt:
            one.twins.append(row)
            return True
    return False


def _part(rows: list[Row]) -> Part:
    return Part(len(rows), max(row.prompt_left for row in rows), max(len(row.tokens) for row in rows))
