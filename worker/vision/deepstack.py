"""Prefill in pieces with mlx-vlm's BatchGenerator, for models that feed images to later layers too (`deepstack`, as in
Qwen3-VL).

After each piece the generator drops its part of `visual_pos_masks`, but not the features that belong to it: the images
of the second piece would get the features of the first. This file drops both.
"""

from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import PromptProcessingBatch

# Features of the images, (image tokens, size) for each layer; in other families as long as the prompt.
_FEATURES, _MASK = "deepstack_visual_embeds", "visual_pos_masks"


class _PromptBatch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
    def prompt_step(self) -> int:
        kwargs: dict[str, Any] = self._prompt_kwargs
        features: Any = kwargs.get(_FEATURES)
        mask: Any = kwargs.get(_MASK)
        read = int(super().prompt_step())
        # A release of mlx-vlm that drops them itself would have replaced them.
        if read and mask is not None and kwargs.get(_FEATURES) is features and isinstance(features, list):
            shown: Any = mx.sum(mask[:, :read]).item()
            kwargs[_FEATURES] = [of_layer[shown:] for of_layer in features]
        return read


def keep_features_in_step() -> None:
    """Patch mlx-vlm in this process: every BatchGenerator looks its class of prompts up in the module."""
    # As an attribute of the package, `mlx_vlm.generate` is a function.
    module: Any = import_module("mlx_vlm.generate")
    module.PromptProcessingBatch = _PromptBatch
