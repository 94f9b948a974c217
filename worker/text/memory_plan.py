"""The plan of memory of a text model: what its sequences and steps cost, measured when it has been loaded."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from broker.wire.to_workers import Assign
from worker.loading.memo import remembered
from worker.loading.memo_files import folder_of
from worker.loading.model_folder import LoadedModel
from worker.memory.cost import CacheCost, WorkCost
from worker.memory.measure import cache_cost, work_cost
from worker.memory.plan import MemoryPlan
from worker.text.options import TextOptions
from worker.text.quantisation import Quantisation


def plan_of(assign: Assign, loaded: LoadedModel, draft: Any, options: TextOptions, *, padded: bool) -> MemoryPlan:
    """draft: a model or None. padded: whether all sequences of the batch take as much as the longest. Without a share
    nothing is measured."""
    cost, work = CacheCost(()), WorkCost()
    if assign.share_bytes:
        models = [loaded.model] if draft is None else [loaded.model, draft]
        cost, work = _cache_cost(models, options), _work_cost(models, loaded.weights_bytes)
        mx.clear_cache()
    return MemoryPlan(
        cost,
        work,
        fixed=mx.get_active_memory(),
        padded=padded,
        most_rows=options.completion_batch_size,
        step_tokens=options.prefill_step_size,
        is_bounded=assign.share_bytes > 0,
        share=assign.share_bytes,
        limit=assign.limit_bytes,
    )


def _cache_cost(models: list[Any], options: TextOptions) -> CacheCost:
    if options.kv_bits is None:
        return cache_cost(models, make_prompt_cache)
    # A cache is quantised after the piece of the prompt with which it becomes long enough.
    start = options.quantized_kv_start + options.prefill_step_size
    return cache_cost(models, make_prompt_cache, Quantisation(options.kv_bits, options.kv_group_size, 0).apply, start)


def _work_cost(models: list[Any], weights_bytes: int) -> WorkCost:
    """Remembered for a model alone, by its configuration and the size of its weights."""
    if len(models) > 1:
        return work_cost(models, make_prompt_cache)
    return remembered(
        models[0],
        folder_of("work"),
        lambda: work_cost(models, make_prompt_cache),
        read=_read_cost,
        write=lambda cost: f"{cost.per_token} {cost.per_pair} {cost.per_square} {cost.per_row}",
        beside=f", {weights_bytes} bytes",
    )


def _read_cost(line: str) -> WorkCost:
    per_token, per_pair, per_square, per_row = map(float, line.split())
    return WorkCost(per_token, per_pair, per_square, per_row)
