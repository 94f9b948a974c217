"""mlx-lm's BatchGenerator, which hands out the first token of a sequence as soon as it is drawn.

BatchGenerator draws it in the step that ends the prompt and returns it in the next one, when it has built the
computation of the second token; who waits for the first need not wait for that. Here the samplers say what they have
drawn. Knows nothing of requests.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch

from worker.sampling import LogitsProcessor, Sampler


class EagerGenerator:
    """The surface of BatchGenerator that worker/text_engine.py uses, and its response types.

    Mutable state: what samplers have drawn in this step; the sequences that may have one token only; and those whose
    first token is handed out although the batch has still to return it.
    """

    def __init__(self, model: Any, *, stop_tokens: Iterable[int], **options: Any) -> None:
        """options: BatchGenerator's own."""
        self._stop_tokens = frozenset(stop_tokens)
        self._batch: Any = BatchGenerator(model, stop_tokens=[[token] for token in stop_tokens], **options)
        self._drawn: list[tuple[mx.array, mx.array]] = []
        self._single: set[int] = set()
        self._begun: set[int] = set()
        # One object for each sampler, because a batch whose rows share one samples them in one call.
        self._recorded = lru_cache(maxsize=256)(self._recording)

    def insert_segments(
        self,
        segments: list[list[list[int]]],
        max_tokens: list[int],
        *,
        caches: list[list[Any] | None],
        all_tokens: list[list[int]],
        samplers: list[Sampler],
        logits_processors: list[list[LogitsProcessor]],
    ) -> list[int]:
        """As BatchGenerator's: one uid for each sequence."""
        uids: list[int] = self._batch.insert_segments(
            segments,
            max_tokens,
            caches=caches,
            all_tokens=all_tokens,
            samplers=[self._recorded(sampler) for sampler in samplers],
            logits_processors=logits_processors,
        )
        self._single |= {uid for uid, limit in zip(uids, max_tokens, strict=True) if limit == 1}
        return uids

    def next(self) -> tuple[list[Any], list[GenerationBatch.Response]]:
        """As BatchGenerator's: parts of prompts that have been read, tokens."""
        self._drawn.clear()
        read, returned = self._batch.next()
        responses = [response for response in returned if response.uid not in self._begun]
        self._begun.difference_update([response.uid for response in returned])
        begun = [part.uid for part in read if part.end_of_prompt]
        for uid, (token, logprobs) in zip(begun, self._last_drawn(len(begun)), strict=True):
            if token in self._stop_tokens or uid in self._single:
                self._single.discard(uid)  # the last token too: the batch will say why
            else:
                self._begun.add(uid)
                responses.append(GenerationBatch.Response(uid, token, logprobs, None, None, None))
        return read, responses

    def remove(self, uids: list[int], *, return_prompt_caches: bool = False) -> dict[int, tuple[list[Any], list[int]]]:
        """As BatchGenerator's: the caches of these sequences and their tokens, where they are asked for."""
        self._single.difference_update(uids)
        self._begun.difference_update(uids)
        removed: dict[int, tuple[list[Any], list[int]]] = self._batch.remove(
            uids, return_prompt_caches=return_prompt_caches
        )
        return removed

    def extract_cache(self, uids: Iterable[int]) -> dict[int, tuple[list[Any], list[int]]]:
        """As BatchGenerator's."""
        caches: dict[int, tuple[list[Any], list[int]]] = self._batch.extract_cache(uids)
        return caches

    def held(self) -> Iterator[tuple[int, list[int]]]:
        """The sequences of which something has been read, each with the tokens that its caches hold."""
        for batch in (self._batch._prompt_batch, self._batch._generation_batch):  # noqa: SLF001 # nothing else tells
            yield from zip(batch.uids, batch.tokens, strict=True)

    def _last_drawn(self, rows: int) -> Iterator[tuple[int, mx.array]]:
        """The last `rows` tokens drawn, in order, each with its log-probabilities (vocabulary,). Waits for them."""
        # A step samples what decodes first, then what begins: all rows at once, or each by itself.
        found: list[tuple[int, mx.array]] = []
        while len(found) < rows:
            tokens, logprobs = self._drawn.pop()
            found[:0] = zip(tokens.tolist(), logprobs, strict=True)  # type: ignore[arg-type] # of one dimension
        yield from found

    def _recording(self, sampler: Sampler) -> Sampler:
        def sample(logprobs: mx.array) -> mx.array:
            tokens = sampler(logprobs)
            self._drawn.append((tokens, logprobs))
            return tokens

        return sample
