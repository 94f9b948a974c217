"""Many sequences of one model, computed together: prompts piece by piece, then a token of each in every step.

What mlx-lm's BatchGenerator does, on the caches that mlx-lm brings along, without what nobody reads (log-probabilities
of every row, masks where no row is padded, a step after the last token), and with a prompt's last piece, its first
token and the way out of it in one step instead of three. docs/benchmarks.md has the figures. Knows nothing of requests.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch
from mlx_lm.models.cache import TokenBuffer, make_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from worker.generation.sampling import GREEDY, LogitsProcessor, Sampler
from worker.text.rows import Group, Row, grouped

# Steps that read prompts, at most, between two steps of decoding.
_READS = 8

# Steps of decoding from one return of unused memory to the next, as in BatchGenerator.
_CLEAR_EVERY = 512

# Bytes of unused memory that may stay after prompts have been read. BatchGenerator returns all of it each time, which
# for a small model takes longer than it is worth.
_MOST_UNUSED_BYTES = 32 * 2**20


class ContinuousBatch:
    """What worker/text/engine.py drives. Responses are those of mlx-lm's BatchGenerator.

    Mutable state: the sequences that wait, each with its caches, those whose prompts are read, and those that decode;
    how many tokens of prompts have been read since the last step of decoding.
    """

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
        """How many sequences are there at once, how many prompts are read together, and how many tokens of each in one
        step. stream: where everything is computed."""
        self._model = model
        self._stop_tokens = frozenset(stop_tokens)
        self._completion_batch_size = completion_batch_size
        self._prefill_batch_size = prefill_batch_size
        self._prefill_step_size = prefill_step_size
        self._stream = stream
        self._next_uid = 0
        self._steps = 0
        self._read_since = 0
        self._waiting: deque[tuple[Row, list[Any]]] = deque()
        self._reading = Group()
        self._decoding = Group()
        maybe_set_recommended_wired_limit()  # as BatchGenerator does

    def __len__(self) -> int:
        return len(self._waiting) + len(self._reading.rows) + len(self._decoding.rows)

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
        """Take a sequence; its uid. segments: the prompt, in parts at whose ends a step ends too; cache: of `tokens`,
        which come before the segments, None where there are none; wants_logprobs: whether responses are to have them.
        """
        unread = deque(part for part in segments if part)
        if not unread or max_tokens < 1:
            raise ValueError("a sequence needs a prompt and room for a token")
        row = Row(self._next_uid, unread, list(tokens), sampler, processors, wants_logprobs, max_tokens)
        self._waiting.append((row, make_prompt_cache(self._model) if cache is None else cache))
        self._next_uid += 1
        return row.uid

    def next(self) -> tuple[list[int], list[GenerationBatch.Response]]:
        """Read a piece of each prompt and hand out the first tokens of those that come to their end, or hand out a
        token of each sequence that decodes: (uids of those that have come to the end of a segment, more of which is to
        be read, tokens). Prompts come first, until as many of their tokens have been read as a step may
        read of one prompt, and for a few steps at most."""
        with mx.stream(self._stream):
            has_prompts = bool(self._reading.rows) or self._room > 0
            if self._decoding.rows and not (has_prompts and self._read_since < self._prefill_step_size):
                self._read_since = 0
                return [], self._decode()
            return self._read()

    def extract_cache(self, uids: Iterable[int]) -> dict[int, tuple[list[Any], list[int]]]:
        """The caches of these sequences, copies once they have begun, and the tokens that they hold."""
        wanted = set(uids)
        found = {row.uid: (cache, row.tokens) for row, cache in self._waiting if row.uid in wanted}
        for group in (self._reading, self._decoding):
            for index, row in enumerate(group.rows):
                if row.uid in wanted:
                    found[row.uid] = group.cache(index), row.tokens
        return found

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """The sequences of which something has been read, each with the tokens that its caches hold."""
        for row in (*self._reading.rows, *self._decoding.rows):
            yield row.uid, row.tokens

    def remove(
        self, uids: Iterable[int], *, return_prompt_caches: bool = False
    ) -> dict[int, tuple[list[Any], list[int]]]:
        """Drop sequences; their caches and tokens, where they are asked for."""
        gone = set(uids)
        with mx.stream(self._stream):
            removed = self.extract_cache(gone) if return_prompt_caches else {}
            self._waiting = deque((row, cache) for row, cache in self._waiting if row.uid not in gone)
            for group in (self._reading, self._decoding):
                group.keep([index for index, row in enumerate(group.rows) if row.uid not in gone])
        return removed

    @property
    def _room(self) -> int:
        """How many of the sequences that wait may begin now."""
        there = len(self._reading.rows)
        return min(
            self._completion_batch_size - len(self._decoding.rows) - there,
            self._prefill_batch_size - there,
            len(self._waiting),
        )

    def _read(self) -> tuple[list[int], list[GenerationBatch.Response]]:
        admitted = [self._waiting.popleft() for _ in range(self._room)]
        begun = self._reading.take([index for index, row in enumerate(self._reading.rows) if row.has_last])
        begun.add(grouped([one for one in admitted if one[0].has_last]))
        self._reading.add(grouped([one for one in admitted if not one[0].has_last]))
        size, stops = self._read_pieces(self._reading)
        # What is at the end of a caller's segment is looked at before anything else of its prompt is read.
        ended = [index for index, row in enumerate(self._reading.rows) if row.has_last and row.uid not in stops]
        begun.add(self._reading.take(ended))
        self._read_since += max(size + len(begun.rows), self._prefill_step_size // _READS)
        tokens = self._begin(begun) if begun.rows else []
        if mx.get_cache_memory() > _MOST_UNUSED_BYTES:
            mx.clear_cache()
        return stops, tokens

    def _read_pieces(self, group: Group) -> tuple[int, list[int]]:
        """A piece of every prompt: how many tokens have been read, and the uids of those whose segment ends here."""
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
            # The rest is computed with the first tokens.
            mx.eval([cache.state for cache in group.caches])
        return sum(lengths), [row.uid for row, end in zip(group.rows, ends, strict=True) if end]

    def _begin(self, group: Group) -> list[GenerationBatch.Response]:
        """The first tokens of these sequences, whose prompts have one token left; they decode from now on."""
        last = [row.unread.popleft()[0] for row in group.rows]
        drawn = self._draw(group, mx.array(last)[:, None])
        for row, token in zip(group.rows, last, strict=True):
            row.tokens.append(token)
        responses = self._hand_out(group, _numbers(drawn), group.logprobs)
        for row in group.rows:
            row.is_ahead = True
        self._decoding.add(group)
        return responses

    def _decode(self) -> list[GenerationBatch.Response]:
        """The tokens that the last step has drawn. The next ones are on their way before these are waited for."""
        group = self._decoding
        drawn, logprobs = group.drawn, group.logprobs
        assert drawn is not None
        goes_on = any(row.is_ahead or row.left > 1 for row in group.rows)
        if goes_on:
            self._draw(group, drawn)
        tokens = _numbers(drawn)
        if goes_on:
            for row, token in zip(group.rows, tokens, strict=True):
                row.tokens.append(token)
            self._steps += 1
            if self._steps % _CLEAR_EVERY == 0:
                mx.clear_cache()
        return self._hand_out(group, tokens, logprobs)

    def _hand_out(
        self, group: Group, tokens: list[int], logprobs: list[mx.array | None]
    ) -> list[GenerationBatch.Response]:
        """These tokens, one drawn for each row of the group; rows that end with theirs leave the group."""
        responses = []
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
                responses.append(GenerationBatch.Response(row.uid, token, logprob, None, None, None))
            else:
                ended = GenerationBatch.Response(row.uid, token, logprob, reason, group.cache(index), row.tokens)
                responses.append(ended)
        group.keep(kept)
        return responses

    def _draw(self, group: Group, tokens: mx.array) -> mx.array:
        """Have the model read these tokens (rows, 1), and draw the next ones (rows, 1); waits for nothing."""
        rows = group.rows
        logits = self._model(tokens, cache=group.caches)
        contexts: list[mx.array] = []
        sampler = rows[0].sampler
        is_shared = all(row.sampler is sampler for row in rows)
        has_processors = any(row.processors for row in rows)
        wants_logprobs = any(row.wants_logprobs for row in rows)
        group.logprobs = [None] * len(rows)
        if is_shared and sampler is GREEDY and not has_processors and not wants_logprobs:
            drawn = sampler(logits)  # the likeliest token, with or without a sum of 1
        else:
            logits = logits[:, -1, :]
            if has_processors:
                processed = [_process(row, tokens[i], logits[i : i + 1], contexts) for i, row in enumerate(rows)]
                logits = mx.concatenate(processed)
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            if is_shared:
                drawn = sampler(logits if sampler is GREEDY else logprobs)
            else:
                # In 16 bits two log-probabilities may be equal whose logits are not: alone or in company, a greedy row
                # looks at the same.
                sources = [logits if row.sampler is GREEDY else logprobs for row in rows]
                drawn = mx.concatenate([row.sampler(sources[i][i : i + 1]) for i, row in enumerate(rows)])
            drawn = drawn[:, None]
            if wants_logprobs:
                group.logprobs = [logprobs[i] if row.wants_logprobs else None for i, row in enumerate(rows)]
        group.drawn = drawn
        wanted = [row for row in group.logprobs if row is not None]
        mx.async_eval(drawn, contexts, wanted)  # type: ignore[no-untyped-call]
        return drawn


def _numbers(drawn: mx.array) -> list[int]:
    """Tokens (rows, 1). Waits for them."""
    return [token for (token,) in drawn.tolist()]  # type: ignore[misc, union-attr] # of two dimensions


def _process(row: Row, token: mx.array, logits: mx.array, contexts: list[mx.array]) -> mx.array:
    """The logits (1, vocabulary) that come after this token (1,) as the row's processors change them; what these see
    joins `contexts`."""
    if row.processors:
        if row.context is None:
            row.context = TokenBuffer(row.tokens)
        context = row.context.update_and_fetch(token)
        contexts.append(context)
        for processor in row.processors:
            logits = processor(context, logits)
    return logits
