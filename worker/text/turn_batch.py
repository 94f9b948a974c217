"""Sequences that take turns, for what mlx-lm does for single sequences only: draft models, quantised key-value caches,
and models whose caches cannot be batched.

Every sequence has an mlx-lm generator of its own. Each step takes one token from each of them and prefills one piece of
one prompt at most, so that no sequence waits for the end of another. Knows nothing of requests.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from time import monotonic
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.models.cache import make_prompt_cache

from worker.cache.disk.layers import BlockForm, copies, slices
from worker.generation.choice import LOOK, Part, choose
from worker.generation.pace import Pace
from worker.generation.sampling import Follower, LogitsProcessor, Sampler
from worker.text.batch import BatchCounts, Decoded, Held
from worker.text.quantisation import Quantisation


@dataclass(slots=True)
class _Turn:
    """One sequence. segments: the prompt that is not prefilled yet; the last segment is its last token. tokens: what
    the caches hold. caches: of the model, and of the draft model if there is one. left: tokens that may still come.
    prefilled: tokens of the prompt that all caches hold, 0 before the first piece; staged: since they were last
    quantised. steps: mlx-lm's generator. prompt: all of it."""

    uid: int
    segments: list[list[int]]
    tokens: list[int]
    caches: list[list[Any]]
    sampler: Sampler
    processors: list[LogitsProcessor]
    left: int
    prefilled: int = 0
    staged: int = 0
    steps: Any = None
    prompt: list[int] = field(default_factory=list)

    def is_behind(self, other: "_Turn") -> bool:
        """Whether both have the same prompt, and this one has less of it in its caches."""
        return self.prefilled < other.prefilled and self.prompt == other.prompt

    def catch_up(self, other: "_Turn") -> None:
        """Be where the prefill of another one is that has the same prompt."""
        self.segments, self.tokens = [list(part) for part in other.segments], list(other.tokens)
        self.caches = copy.deepcopy(other.caches)
        self.prefilled, self.staged = other.prefilled, other.staged

    def copy(self) -> Held:
        """A copy of the caches with their prompt tokens; once the sequence decodes, the caches hold more."""
        return Held(copy.deepcopy(self.layers), self.tokens[: self.prefilled])

    def close(self) -> Held:
        """End the sequence; the caches and the tokens that all of them hold."""
        if self.steps is not None:
            self.steps.close()
        layers = self.layers
        if len(self.caches) == 1:
            return Held(layers, self.tokens)
        # The draft model's may be a token behind. With a draft model all of them can be shortened.
        held = min(layer.offset for layer in layers)
        for layer in layers:
            layer.trim(layer.offset - held)
        return Held(layers, self.tokens[:held])

    @property
    def layers(self) -> list[Any]:
        """Of all models."""
        return [layer for cache in self.caches for layer in cache]


class TurnBatch:
    """Mutable state: the sequences that wait or prefill, in their order; those that decode, by uid; how much prefill
    may take now; and how many prompt tokens have been computed."""

    is_padded = False
    decode_steps = late_steps = 0  # mlx-lm's generators launch and read

    def __init__(
        self,
        model: Any,
        draft_model: Any,
        *,
        stop_tokens: Iterable[int],
        completion_batch_size: int,
        prefill_step_size: int,
        pace: Pace,
        num_draft_tokens: int,
        quantisation: Quantisation,
        stream: mx.Stream,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """draft_model: None for none. prefill_step_size: tokens after which caches are quantised. clock: seconds.

        Raises ValueError where the caches of these models cannot be quantised so."""
        self._models = [model] if draft_model is None else [model, draft_model]
        self._stop_tokens = frozenset(stop_tokens)
        self._most = completion_batch_size
        self._prefill_step_size = prefill_step_size
        self._pace = pace
        self._clock = clock
        self._num_draft_tokens = num_draft_tokens
        self._quantisation = quantisation
        self._stream = stream
        self._next_uid = 0
        self.prefilled = 0
        self._waiting: deque[_Turn] = deque()
        self._decoding: dict[int, _Turn] = {}
        for one in self._models:
            quantisation.check(one)

    def insert(
        self,
        segments: list[list[int]],
        max_tokens: int,
        *,
        cache: list[Any] | None,
        tokens: list[int],
        sampler: Sampler,
        processors: list[LogitsProcessor],
        wants_logprobs: bool,  # mlx-lm's generators always compute them
    ) -> int:
        """As in Batch. cache: the layers of the model, then those of the draft model."""
        parts = [part for part in segments if part]
        if not parts or max_tokens < 1:
            raise ValueError("a sequence needs a prompt and room for a token")
        *before, last = parts
        pieces = [*before, last[:-1], last[-1:]] if len(last) > 1 else [*before, last]
        turn = _Turn(self._next_uid, pieces, list(tokens), self._split(cache), sampler, processors, left=max_tokens)
        turn.prompt = [*tokens, *chain.from_iterable(parts)]
        self._waiting.append(turn)
        self._next_uid += 1
        return turn.uid

    def next(self) -> tuple[list[int], list[Decoded]]:
        """A token of every sequence that decodes, and a piece of a prompt that waits, where it is prefill's turn."""
        with mx.stream(self._stream):
            for turn in [turn for turn in self._waiting if len(turn.segments) == 1][: self._room]:
                self._waiting.remove(turn)
                turn.steps = self._steps(turn)
                self._decoding[turn.uid] = turn
            decoded = [self._advance(turn) for turn in list(self._decoding.values())]
            if decoded:
                self._pace.decoded(self._clock())
            return self._prefill(), decoded

    def extract_cache(self, uids: Iterable[int]) -> dict[int, Held]:
        """As in Batch; of the prompts alone."""
        wanted = set(uids)
        return {turn.uid: turn.copy() for turn in self._all() if turn.uid in wanted}

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """As in Batch; of the prompts alone."""
        for turn in self._all():
            if turn.prefilled:
                yield turn.uid, turn.tokens[: turn.prefilled]

    def settled(self) -> Iterator[tuple[int, list[int], int]]:
        """As in Batch. The last token may be in no cache yet, and a draft model's may be behind."""
        for turn in self._all():
            if turn.prefilled:
                yield turn.uid, turn.tokens, min(len(turn.tokens) - 1, *(layer.offset for layer in turn.layers))

    def layers(self, uid: int) -> list[Any]:
        """As in Batch."""
        return next(turn.layers for turn in self._all() if turn.uid == uid)

    def copies(self, uid: int, begin: int, end: int, form: BlockForm) -> dict[str, mx.array]:
        """As in Batch."""
        with mx.stream(self._stream):
            parts = [part for layer in self.layers(uid) for part in slices(layer, 0, begin, end)]
            return copies(form, parts)

    def remove(self, uids: Iterable[int], *, return_prompt_caches: bool = False) -> dict[int, Held]:
        """As in Batch."""
        gone = set(uids)
        removed = [turn for turn in self._all() if turn.uid in gone]
        self._waiting = deque(turn for turn in self._waiting if turn.uid not in gone)
        self._decoding = {uid: turn for uid, turn in self._decoding.items() if uid not in gone}
        for turn in removed:
            heir = next((one for one in self._waiting if one.is_behind(turn)), None)
            if heir is not None and turn.steps is None:
                heir.catch_up(turn)
        left = {turn.uid: turn.close() for turn in removed}
        return left if return_prompt_caches else {}

    def bound_step(self, tokens: int) -> None:
        """As in Batch."""
        self._pace.bound(tokens)

    def hold_prefill(self, is_held: bool) -> None:
        """As in Batch."""
        self._pace.is_held = is_held

    def counts(self) -> BatchCounts:
        """As in Batch."""
        waiting = list(self._waiting)
        prefilling = sum(turn.prefilled > 0 for turn in waiting)
        return BatchCounts(len(waiting) - prefilling, prefilling, len(self._decoding))

    def _all(self) -> Iterator[_Turn]:
        yield from self._waiting
        yield from self._decoding.values()

    def _split(self, known: list[Any] | None) -> list[list[Any]]:
        """The caches of each model, new ones for None."""
        if known is None:
            return [make_prompt_cache(model) for model in self._models]
        layers = iter(known)
        return [[next(layers) for _ in make_prompt_cache(model)] for model in self._models]

    @property
    def _room(self) -> int:
        return max(0, self._most - len(self._decoding))

    def _prefill(self) -> list[int]:
        beside = bool(self._decoding)
        turns: list[_Turn] = []
        for turn in islice(self._waiting, LOOK if self._room else 0):
            # Of equal prompts the first is prefilled, and the others get its caches.
            if len(turn.segments) > 1 and all(turn.prompt != other.prompt for other in turns):
                turns.append(turn)
        if not turns:
            return []
        if beside:
            mx.synchronize(self._stream)  # the steps of those who decode were launched before
        began = self._clock()
        parts = [Part(1, sum(map(len, turn.segments)), len(turn.tokens)) for turn in turns]
        choice = choose(self._pace, parts, [], room=0, now=began, beside=beside)
        if choice is None or choice.begun is None:
            return []
        turn = turns[choice.begun]
        context = len(turn.tokens)
        # A token attends to others before they are quantised or after. Which, must not depend on time.
        to_stage = self._prefill_step_size - turn.staged
        piece = turn.segments[0][: min(choice.tokens, to_stage)]
        turn.segments[0] = turn.segments[0][len(piece) :]
        is_stage = len(piece) == to_stage or not turn.segments[0]
        turn.staged = 0 if is_stage else turn.staged + len(piece)
        tokens = mx.array([piece], mx.uint32)
        for model, cache in zip(self._models, turn.caches, strict=True):
            model(tokens, cache=cache)
            if is_stage:
                self._quantisation.apply(cache)
            mx.eval([layer.state for layer in cache])
        mx.clear_cache()
        seconds = self._clock() - began
        self._pace.prefilled(len(piece), context, began, seconds, beside=beside, in_whole=choice.in_whole)
        turn.tokens += piece
        turn.prefilled = len(turn.tokens)
        self.prefilled += len(piece)
        if turn.segments[0]:
            return []
        del turn.segments[0]
        if len(turn.segments) == 1:
            for twin in self._waiting:
                if twin.is_behind(turn):
                    twin.catch_up(turn)
        return [turn.uid]

    def _advance(self, turn: _Turn) -> Decoded:
        token, logprobs, *_ = next(turn.steps)
        turn.tokens.append(token)
        turn.left -= 1
        reason = "stop" if token in self._stop_tokens else "length" if not turn.left else None
        if reason is None:
            return Decoded(turn.uid, token, logprobs)
        del self._decoding[turn.uid]
        return Decoded(turn.uid, token, logprobs, reason, turn.close())

    def _steps(self, turn: _Turn) -> Iterator[tuple[Any, ...]]:
        """mlx-lm's generator from the last token of the prompt on."""
        (last,) = turn.segments
        turn.prefilled = len(turn.tokens)
        before = mx.array(turn.tokens, mx.uint32)
        turn.tokens += last
        self.prefilled += len(last)
        arguments: dict[str, Any] = {
            "max_tokens": turn.left,
            "sampler": turn.sampler,
            "logits_processors": [_with_prompt(processor, before) for processor in turn.processors],
            "kv_bits": self._quantisation.bits,
            "kv_group_size": self._quantisation.group_size,
            "quantized_kv_start": self._quantisation.start,
        }
        is_drafted = len(self._models) > 1 and not any(isinstance(one, Follower) for one in turn.processors)
        prompt, model = mx.array(last, mx.uint32), self._models[0]
        if not is_drafted:
            steps: Any = generate_step(prompt, model, self._stream, prompt_cache=turn.caches[0], **arguments)
        else:
            layers = [layer for cache in turn.caches for layer in cache]
            drafts = {"num_draft_tokens": self._num_draft_tokens, "prompt_cache": layers}
            steps = speculative_generate_step(prompt, *self._models, self._stream, **drafts, **arguments)
        return steps  # type: ignore[no-any-return] # mlx-lm is not read by mypy


def _with_prompt(processor: LogitsProcessor, before: mx.array) -> LogitsProcessor:
    """mlx-lm's generators show a processor only the tokens that they have taken themselves."""
    return lambda tokens, logits: processor(mx.concatenate([before, tokens]), logits)
