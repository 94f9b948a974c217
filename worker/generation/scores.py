"""Whether a model's attention keeps its scores in memory: pieces of prompts must then be small in a long context.

MLX has kernels that need no such memory, on a GPU and for some sizes of a head.
"""

from collections.abc import Iterator
from typing import Any

# Of mlx 0.32.4: sdpa_full_supported_head_dim in mlx/backend/metal/scaled_dot_product_attention.cpp.
_FUSED_HEADS = frozenset({64, 80, 128})

_SIZES = ("head_dim", "global_head_dim", "swa_head_dim", "v_head_dim", "qk_nope_head_dim")

# Where the configuration does not say how many heads there are.
_HEADS = 32

# Softmax is computed in 32 bits.
_BYTES = 4


def score_bytes(args: Any, *, is_metal: bool) -> int:
    """Bytes of the scores of one token for one other, in one layer; 0 where none are kept. args: a model's."""
    counts = [heads for heads in _numbers(args, ("num_attention_heads", "n_heads", "n_head", "num_heads")) if heads > 0]
    heads = max(counts, default=_HEADS)
    sizes = set(_numbers(args, _SIZES))
    if not sizes:
        sizes = {hidden // heads for hidden in _numbers(args, ("hidden_size", "d_model", "n_embd", "model_dim"))}
    if is_metal and sizes and sizes <= _FUSED_HEADS:
        return 0
    return heads * _BYTES


def _numbers(args: Any, names: tuple[str, ...]) -> Iterator[int]:
    """The fields of these names that are numbers, also those of the text model within a larger one."""
    fields = args if isinstance(args, dict) else getattr(args, "__dict__", {})
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            yield value
    inner = fields.get("text_config")
    if inner is not None:
        yield from _numbers(inner, names)
