"""Sequences whose prompt another one has read: each begins with a copy of its caches."""

import copy
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import GenerationBatch

from worker.vision.row_sampler import RowSampler


def begun_like(first: Any, logits: mx.array, tokens: list[int], sampler: RowSampler | None, max_tokens: int) -> Any:
    """A GenerationBatch of one sequence, without its uid. first: that of the sequence whose prompt has just been read,
    which has not been in any other; logits: (1, vocabulary), those of its first token before they were processed;
    tokens: of the prompt."""
    if sampler is not None:
        logits = sampler(mx.array(tokens), logits)
    batch: Any = GenerationBatch(
        model=first.model,
        uids=[0],
        inputs=mx.argmax(logits, axis=-1),
        prompt_cache=copy.deepcopy(first.prompt_cache),
        sampler=first.sampler,
        stop_criteria=first.stop_criteria,
        max_tokens=[max_tokens],
        greedy_sampling=first.greedy_sampling,
        token_context=[] if sampler is None else [tokens],
        logits_processors=[] if sampler is None else [[sampler]],
        thinking_budget_criteria=[None],
    )
    batch.compute_logprobs = first.compute_logprobs
    # Where the next token stands, beside the number of tokens. mlx-vlm sets it so, too.
    batch._rope_deltas = first._rope_deltas  # noqa: SLF001
    return batch
