"""What a step of an embedding model costs in memory, measured when it has been loaded."""

import mlx.core as mx

from worker.embeddings.encoder import Encoder, Row
from worker.memory.cost import WorkCost

# Tokens of the two rows that are measured.
_SHORT, _LONG = 32, 256

# What the estimate has over the measured work.
_MARGIN = 2.0


def step_cost(encoder: Encoder) -> WorkCost:
    """Of a batch. Activations grow with its tokens, attention scores also with the length of its rows."""
    long = min(_LONG, encoder.context_length or _LONG)
    short = min(_SHORT, max(1, long // 2))
    near, far = (_peak(encoder, length) / length for length in (short, long))
    per_pair = max(0.0, (far - near) / (long - short)) if long > short else 0.0
    mx.clear_cache()
    return WorkCost(max(0.0, far - per_pair * long) * _MARGIN, per_pair * _MARGIN)


def _peak(encoder: Encoder, length: int) -> int:
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    encoder.run([Row([0] * length)])
    return max(0, mx.get_peak_memory() - before)
