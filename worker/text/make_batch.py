"""Decides which batch computes a text model's sequences. A new kind of batch is one more branch here."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from worker.generation.pace import Pace
from worker.generation.scores import score_bytes
from worker.loading.model_folder import LoadedModel
from worker.text.batch import Batch
from worker.text.continuous_batch import ContinuousBatch
from worker.text.options import TextOptions
from worker.text.quantisation import Quantisation
from worker.text.sharing import Sharing
from worker.text.sharing_memo import default_folder, remembered_sharing
from worker.text.turn_batch import TurnBatch

# (the model, its draft model or None, its settings) -> a batch.
MakeBatch = Callable[[LoadedModel, Any, TextOptions], Batch]


def make_batch(loaded: LoadedModel, draft_model: Any, options: TextOptions) -> Batch:
    """One batch for all, unless the model (sharing.py) or a setting works for single sequences only. Raises ValueError
    for settings that the model cannot have."""
    stop_tokens = sorted(loaded.tokenizer.eos_token_ids)
    # Sequences are also removed between steps: one stream for everything needs no synchronisation.
    stream = mx.default_stream(mx.default_device())
    scores = score_bytes(getattr(loaded.model, "args", None), is_metal=mx.metal.is_available())
    pace = Pace(options.prefill_step_size, scores)
    sharing = Sharing.NOTHING
    if draft_model is None and options.kv_bits is None:
        sharing = remembered_sharing(loaded.model, default_folder())
    if sharing is not Sharing.NOTHING:
        return ContinuousBatch(
            loaded.model,
            stop_tokens=stop_tokens,
            completion_batch_size=options.completion_batch_size,
            prefill_batch_size=options.prefill_batch_size if sharing is Sharing.ALL else 1,
            pace=pace,
            stream=stream,
        )
    return TurnBatch(
        loaded.model,
        draft_model,
        stop_tokens=stop_tokens,
        completion_batch_size=options.completion_batch_size,
        prefill_step_size=options.prefill_step_size,
        pace=pace,
        num_draft_tokens=options.num_draft_tokens,
        quantisation=Quantisation(options.kv_bits, options.kv_group_size, options.quantized_kv_start),
        stream=stream,
    )
