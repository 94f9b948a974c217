"""The plan of memory of a vision model: what its sequences, steps and images cost."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.models.cache import make_prompt_cache

from broker.wire.to_workers import Assign
from worker.memory.cost import CacheCost, WorkCost
from worker.memory.measure import cache_cost, work_cost
from worker.memory.plan import MemoryPlan
from worker.process.device_errors import is_device_error
from worker.vision.hearing import Hearing
from worker.vision.model import Prompt

log = logging.getLogger("worker")

# What encoding takes at its peak for each byte of pixels: an image of 4 million pixels has 20,000 patches, whose
# activations take some 800 MB in the widest of the usual encoders.
_BYTES_PER_PIXEL_BYTE = 24


def plan_of(assign: Assign, language_model: Any, *, most_rows: int, step_tokens: int) -> MemoryPlan:
    """Without a share nothing is measured."""
    cost, work = CacheCost(()), WorkCost()
    if assign.share_bytes:
        try:
            with _undisturbed(language_model):
                cost = cache_cost([language_model], make_prompt_cache)
                work = work_cost([language_model], make_prompt_cache)
        except Exception as error:  # the code of a family may want more than tokens
            if is_device_error(error):
                raise
            log.warning("the memory of this model's sequences cannot be measured, and is not bounded", exc_info=True)
        mx.clear_cache()
    return MemoryPlan(
        cost,
        work,
        fixed=mx.get_active_memory(),
        padded=True,
        most_rows=most_rows,
        step_tokens=step_tokens,
        is_bounded=assign.share_bytes > 0,
        share=assign.share_bytes,
        limit=assign.limit_bytes,
    )


def encoding_bytes(prompt: Prompt, hearing: Hearing | None) -> int:
    """What a prompt takes beside its caches until it has been read: its images, sounds and embeddings."""
    inputs: Any = tree_flatten(prompt.inputs)
    seen = sum(value.nbytes for _, value in inputs if isinstance(value, mx.array)) * _BYTES_PER_PIXEL_BYTE
    return seen if hearing is None else seen + hearing.encoding_bytes(prompt.heard)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Puts back what a model keeps of its last prompt: some families keep positions. A module of mlx is a dictionary
    with attributes beside it."""
    entries, attributes = dict(model), dict(vars(model))
    try:
        yield
    finally:
        for place, kept in ((model, entries), (vars(model), attributes)):
            for name in place.keys() - kept.keys():
                del place[name]
            dict.update(place, kept)
