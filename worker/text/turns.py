"""What mlx-lm does for one sequence at a time only, for many at once: draft models, quantised key-value caches, and
models whose caches cannot be batched.

BatchGenerator offers none of them. Here every sequence has an mlx-lm generator of its own, and each `next` takes one
token from each of them in turn and reads one piece of one prompt: nobody waits for another's end. It has the surface of
worker/text/continuous_batch.py. Knows nothing of requests.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import (
    GenerationBatch,
    generate_step,
    maybe_quantize_kv_cache,
    speculative_generate_step,
)
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from worker.generation.constraint import Constraint
from worker.generation.sampling import LogitsProcessor, Sampler


@dataclass(slots=True, frozen=True)
class Quantisation:
    """Of key-value caches, as mlx-lm names it: none for bits None; start: tokens from which on a cache is quantised."""

    bits: int | None
    group_size: int
    start: int


@dataclass(slots=True)
class _Sequence:
    """tokens: what the caches hold. segments: what is left of the prompt; the last one is its last token. caches: of
    the model, and of the draft model if there is one. left: tokens that may still come. read: how many tokens of the
    prompt all caches hold, 0 while nothing has been read here."""

    uid: int
    segments: list[list[int]]
    tokens: list[int]
    caches: list[list[Any]]
    sampler: Sampler
    processors: list[LogitsProcessor]
    left: int
    read: int = 0
    steps: Any = None

    def close(self) -> tuple[list[Any], list[int]]:
        """The caches as one list and the tokens that all of them hold; the sequence is not to be used any more."""
        if self.steps is not None:
            self.steps.close()
        layers = [layer for cache in self.caches for layer in cache]
        if len(self.caches) == 1:
            return layers, self.tokens
        # The draft model's may be a token behind. With a draft model all of them can be shortened.
        held = min(layer.offset for layer in layers)
        for layer in layers:
            layer.trim(layer.offset - held)
        return layers, self.tokens[:held]


class TurnGenerator:
    """Mutable state: the sequences whose prompts wait or are read, in their order, and those that decode, by uid."""

    def __init__(
        self,
        model: Any,
        draft_model: Any,
        *,
        stop_tokens: Iterable[int],
        completion_batch_size: int,
        prefill_step_size: int,
        num_draft_tokens: int,
        quantisation: Quantisation,
        stream: mx.Stream,
    ) -> None:
        """draft_model: None for none. Raises ValueError where the caches of these models cannot be quantised so."""
        self._models = [model] if draft_model is None else [model, draft_model]
        self._stop_tokens = frozenset(stop_tokens)
        self._most = completion_batch_size
        self._prefill_step_size = prefill_step_size
        self._num_draft_tokens = num_draft_tokens
        self._quantisation = quantisation
        self._stream = stream
        self._next_uid = 0
        self._waiting: deque[_Sequence] = deque()
        self._decoding: dict[int, _Sequence] = {}
        maybe_set_recommended_wired_limit()  # as BatchGenerator does
        if quantisation.bits is not None:
            self._try_quantisation()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._decoding)

    def insert(
        self,
        segments: list[list[int]],
        max_tokens: int,
        *,
        cache: list[Any] | None,
        tokens: list[int],
        sampler: Sampler,
        processors: list[LogitsProcessor],
        wants_logprobs: bool,  # mlx-lm's generators make them in any case
    ) -> int:
        """Take a sequence; its uid. segments: the prompt, in parts; cache: of `tokens`, as `next` or `extract_cache`
        gave it."""
        *before, last = [part for part in segments if part]
        pieces = [*before, last[:-1], last[-1:]] if len(last) > 1 else [*before, last]
        sequence = _Sequence(
            self._next_uid, pieces, list(tokens), self._caches(cache), sampler, processors, left=max_tokens
        )
        self._waiting.append(sequence)
        self._next_uid += 1
        return sequence.uid

    def next(self) -> tuple[list[int], list[GenerationBatch.Response]]:
        """A token of every sequence that decodes, and a piece of the first prompt that waits: (uids of those that have
        come to the end of a segment, tokens)."""
        with mx.stream(self._stream):
            while self._waiting and len(self._decoding) < self._most and len(self._waiting[0].segments) == 1:
                sequence = self._waiting.popleft()
                sequence.steps = self._steps(sequence)
                self._decoding[sequence.uid] = sequence
            decoded = [self._advance(sequence) for sequence in list(self._decoding.values())]
            return self._read(), decoded

    def extract_cache(self, uids: Iterable[int]) -> dict[int, tuple[list[Any], list[int]]]:
        """Copies of what of these prompts has been read: caches, tokens. Once they decode, the caches hold more."""
        wanted = set(uids)
        return {
            sequence.uid: (
                copy.deepcopy([layer for cache in sequence.caches for layer in cache]),
                sequence.tokens[: sequence.read],
            )
            for sequence in (*self._waiting, *self._decoding.values())
            if sequence.uid in wanted
        }

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """The sequences of which something has been read, each with the part of its prompt that its caches hold."""
        for sequence in (*self._waiting, *self._decoding.values()):
            if sequence.read:
                yield sequence.uid, sequence.tokens[: sequence.read]

    def remove(
        self, uids: Iterable[int], *, return_prompt_caches: bool = False
    ) -> dict[int, tuple[list[Any], list[int]]]:
        """Drop sequences; what they have read and said, where asked for."""
        gone = set(uids)
        removed = [sequence for sequence in (*self._waiting, *self._decoding.values()) if sequence.uid in gone]
        self._waiting = deque(sequence for sequence in self._waiting if sequence.uid not in gone)
        self._decoding = {uid: sequence for uid, sequence in self._decoding.items() if uid not in gone}
        left = {sequence.uid: sequence.close() for sequence in removed}
        return left if return_prompt_caches else {}

    def _caches(self, known: list[Any] | None) -> list[list[Any]]:
        if known is None:
            return [make_prompt_cache(model) for model in self._models]
        layers = iter(known)
        return [[next(layers) for _ in make_prompt_cache(model)] for model in self._models]

    def _read(self) -> list[int]:
        if not self._waiting or len(self._decoding) >= self._most or len(self._waiting[0].segments) == 1:
            return []
        sequence = self._waiting[0]
        piece = sequence.segments[0][: self._prefill_step_size]
        sequence.segments[0] = sequence.segments[0][len(piece) :]
        tokens = mx.array([piece], mx.uint32)
        for model, cache in zip(self._models, sequence.caches, strict=True):
            model(tokens, cache=cache)
            self._quantise(cache)
            mx.eval([layer.state for layer in cache])
        mx.clear_cache()
        sequence.tokens += piece
        sequence.read = len(sequence.tokens)
        if sequence.segments[0]:
            return []
        del sequence.segments[0]
        return [sequence.uid]

    def _advance(self, sequence: _Sequence) -> GenerationBatch.Response:
        token, logprobs, *_ = next(sequence.steps)
        sequence.tokens.append(token)
        sequence.left -= 1
        reason = "stop" if token in self._stop_tokens else "length" if not sequence.left else None
        cache: list[Any] | None = None
        tokens: list[int] | None = None
        if reason is not None:
            del self._decoding[sequence.uid]
            cache, tokens = sequence.close()
        return GenerationBatch.Response(sequence.uid, token, logprobs, reason, cache, tokens)

    def _steps(self, sequence: _Sequence) -> Iterator[tuple[Any, ...]]:
        """mlx-lm's generator from the last token of the prompt on."""
        (last,) = sequence.segments
        sequence.read = len(sequence.tokens)
        before = mx.array(sequence.tokens, mx.uint32)
        sequence.tokens += last
        arguments: dict[str, Any] = {
            "max_tokens": sequence.left,
            "sampler": sequence.sampler,
            "logits_processors": [_with_prompt(processor, before) for processor in sequence.processors],
            "kv_bits": self._quantisation.bits,
            "kv_group_size": self._quantisation.group_size,
            "quantized_kv_start": self._quantisation.start,
        }
        # A constraint follows the tokens one by one and cannot take back what a draft got wrong.
        is_drafted = len(self._models) > 1 and not any(isinstance(one, Constraint) for one in sequence.processors)
        prompt, model = mx.array(last, mx.uint32), self._models[0]
        if not is_drafted:
            steps: Any = generate_step(prompt, model, self._stream, prompt_cache=sequence.caches[0], **arguments)
        else:
            layers = [layer for cache in sequence.caches for layer in cache]
            drafts = {"num_draft_tokens": self._num_draft_tokens, "prompt_cache": layers}
            steps = speculative_generate_step(prompt, *self._models, self._stream, **drafts, **arguments)
        return steps  # type: ignore[no-any-return] # mlx-lm is not read by mypy

    def _quantise(self, cache: list[Any]) -> None:
        wanted = self._quantisation
        maybe_quantize_kv_cache(cache, wanted.start, wanted.group_size, wanted.bits)

    def _try_quantisation(self) -> None:
        """Not every family's caches can be quantised, nor with every number of bits: better now than in a step."""
        wanted = self._quantisation
        for model in self._models:
            cache = make_prompt_cache(model)
            try:
                mx.eval(model(mx.array([[0]]), cache=cache))
                maybe_quantize_kv_cache(cache, 0, wanted.group_size, wanted.bits)
                mx.eval(model(mx.array([[0, 0]]), cache=cache))
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(
                    f"kv_bits {wanted.bits} with kv_group_size {wanted.group_size} is nothing for this model: {reason}"
                ) from error


def _with_prompt(processor: LogitsProcessor, before: mx.array) -> LogitsProcessor:
    """mlx-lm's generators show a processor only what they have read themselves."""
    return lambda tokens, logits: processor(mx.concatenate([before, tokens]), logits)
