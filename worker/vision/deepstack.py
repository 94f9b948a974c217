"""Prompts that mlx-vlm's BatchGenerator reads in pieces, for models whose later layers are shown pictures as well
(`deepstack`: Qwen3-VL and its kin).

With each piece the generator drops the part of `visual_pos_masks` that has been read, but not the features that belong
to it: the pictures of a second piece would get those of the first. Here both go together.
"""

from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import PromptProcessingBatch

# Features of the pictures, (picture tokens, size) for each layer; other families have them as long as the prompt.
_FEATURES, _MASK = "deepstack_visual_embeds", "visual_pos_masks"


class _PromptBatch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
    def prompt_step(self) -> int:
        kwargs: dict[str, Any] = self._prompt_kwargs
        features: Any = kwargs.get(_FEATURES)
        mask: Any = kwargs.get(_MASK)
        read = int(super().prompt_step())
        # A release of mlx-vlm that drops them itself leaves other ones.
        if read and mask is not None and kwargs.get(_FEATURES) is features and isinstance(features, list):
            shown: Any = mx.sum(mask[:, :read]).item()
            kwargs[_FEATURES] = [of_layer[shown:] for of_layer in features]
        return read


def keep_features_in_step() -> None:
    """In this process, for every BatchGenerator: it looks its class of prompts up in this module."""
    # Not by attributes: `mlx_vlm.generate` is a function there.
    module: Any = import_module("mlx_vlm.generate")
    module.PromptProcessingBatch = _PromptBatch
