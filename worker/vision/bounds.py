"""Keeps Qwen4-exp of mlx-vlm from writing before the beginning of an array.

Its mask has a place for every token of a selected block, and a block that is none has the number -1. Where a prompt is
shorter than a block, such places lie before the array, and MLX checks no place: what is there is overwritten. On the
CPU that was the size of the array's own memory, so that MLX counted 64 PiB from then on.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

_INDEXER = "Qwen4ExpQSAIndexer"


def keep_in_bounds(vlm: Any) -> None:
    """Of a model that mlx-vlm has loaded, of any family."""
    for module in vlm.modules():
        if type(module).__name__ == _INDEXER:
            module.build_mask = partial(_without_negative_places, module.build_mask)


def _without_negative_places(build: Callable[[SimpleNamespace], mx.array], selection: SimpleNamespace) -> mx.array:
    """selected_blocks: (sequences, tokens, blocks). One that begins behind all keys is left out."""
    blocks = selection.selected_blocks
    inside = mx.where(blocks < 0, selection.key_len, blocks)
    return build(SimpleNamespace(**{**vars(selection), "selected_blocks": inside}))
