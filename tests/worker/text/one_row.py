"""A batch of another kind than the worker's own: one sequence at a time, from its first token to its last."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from worker.cache.disk.layers import BlockForm
from worker.generation.sampling import LogitsProcessor, Sampler
from worker.loading.model_folder import LoadedModel
from worker.text.batch import BatchCounts, Decoded, Held
from worker.text.options import TextOptions


@dataclass(slots=True)
class _One:
    uid: int
    prompt: list[int]
    known: list[int]
    cache: list[Any]
    left: int
    sampler: Sampler
    processors: list[LogitsProcessor]
    drawn: Any = None


class OneRow:
    """The first sequence that has come decodes, with mlx-lm's generate_step; the others wait."""

    is_padded = False

    def __init__(self, loaded: LoadedModel, _draft: Any, options: TextOptions) -> None:
        self._model = loaded.model
        self._stop_tokens = loaded.tokenizer.eos_token_ids
        self._prefill_step_size = options.prefill_step_size
        self._rows: dict[int, _One] = {}
        self._next_uid = 0
        self._is_held = False
        self.prefilled = self.decode_steps = self.late_steps = 0

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
        prompt = [token for part in segments for token in part]
        fresh = make_prompt_cache(self._model) if cache is None else cache
        one = _One(self._next_uid, prompt, list(tokens), fresh, max_tokens, sampler, processors)
        self._rows[one.uid] = one
        self._next_uid += 1
        return one.uid

    def next(self) -> tuple[list[int], list[Decoded]]:
        one = next(iter(self._rows.values()))
        if one.drawn is None:
            if self._is_held:
                return [], []
            one.drawn = generate_step(
                mx.array(one.prompt),
                self._model,
                max_tokens=one.left,
                sampler=one.sampler,
                logits_processors=[_after(processor, one.known) for processor in one.processors],
                prompt_cache=one.cache,
                prefill_step_size=self._prefill_step_size,
            )
            one.known += one.prompt
            self.prefilled += len(one.prompt)
        token, logprobs = next(one.drawn)
        one.known.append(token)
        one.left -= 1
        reason = "stop" if token in self._stop_tokens else None if one.left else "length"
        if reason is None:
            return [], [Decoded(one.uid, token, logprobs)]
        held = self.remove([one.uid], return_prompt_caches=True)[one.uid]
        return [], [Decoded(one.uid, token, logprobs, reason, held)]

    def extract_cache(self, uids: Iterable[int]) -> dict[int, Held]:
        assert not list(uids), "nothing is shared before its end"
        return {}

    def held(self) -> Iterator[tuple[int, list[int]]]:
        return iter(())

    def settled(self) -> Iterator[tuple[int, list[int], int]]:
        yield from ()

    def layers(self, uid: int) -> list[Any]:
        return self._rows[uid].cache

    def copies(self, uid: int, begin: int, end: int, form: BlockForm) -> dict[str, mx.array]:
        raise NotImplementedError

    def remove(self, uids: Iterable[int], *, return_prompt_caches: bool = False) -> dict[int, Held]:
        removed = [self._rows.pop(uid) for uid in uids]
        for one in removed:
            if one.drawn is not None:
                one.drawn.close()
        if not return_prompt_caches:
            return {}
        return {one.uid: Held(one.cache, one.known[: one.cache[0].offset]) for one in removed}

    def bound_step(self, tokens: int) -> None:
        self._prefill_step_size = tokens

    def hold_prefill(self, is_held: bool) -> None:
        self._is_held = is_held

    def counts(self) -> BatchCounts:
        decoding = sum(one.drawn is not None for one in list(self._rows.values()))
        return BatchCounts(len(self._rows) - decoding, 0, decoding)


def _after(processor: LogitsProcessor, known: list[int]) -> LogitsProcessor:
    """generate_step shows a processor no tokens that a cache holds already."""
    before = mx.array(known, mx.uint32)
    return lambda tokens, logits: processor(mx.concatenate([before, tokens]), logits)
