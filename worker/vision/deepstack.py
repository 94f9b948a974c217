"""Prefill in pieces with mlx-vlm's BatchGenerator: how large they are, and what belongs to each.

The generator prefills a piece of a prompt in each of its steps, of a fixed number of tokens. Here a piece takes a
bounded time, and none comes where it is decode's turn (worker/generation/pace.py).

Models that feed images to later layers too (`deepstack`, as in Qwen3-VL): after each piece the generator drops its part
of `visual_pos_masks`, but not the features that belong to it: the images of the second piece would get the features of
the first. This file drops both.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import PromptProcessingBatch

# Features of the images, (image tokens, size) for each layer; in other families as long as the prompt.
_FEATURES, _MASK = "deepstack_visual_embeds", "visual_pos_masks"

# (tokens left of the prompt, tokens of it that the caches hold, prefills so many at most) -> the tokens prefilled.
Prefill = Callable[[int, int, Callable[[int], int]], int]


def prefill_by(prefill: Prefill) -> None:
    """Patch mlx-vlm in this process: every BatchGenerator looks its class of prompts up in the module. prefill: does
    each step of those prompts that may be prefilled in pieces."""

    class PromptBatch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
        def prompt_step(self) -> int:
            in_pieces: Any = self.prefill_step_size
            if in_pieces is None or not self.needs_processing():
                return int(super().prompt_step())
            return prefill(self._inputs_embeds.shape[1], self._processed_prompt_columns, self._piece)

        def _piece(self, most: int) -> int:
            kwargs: dict[str, Any] = self._prompt_kwargs
            features: Any = kwargs.get(_FEATURES)
            mask: Any = kwargs.get(_MASK)
            self.prefill_step_size = most
            read = int(super().prompt_step())
            # A release of mlx-vlm that drops them itself would have replaced them.
            if read and mask is not None and kwargs.get(_FEATURES) is features and isinstance(features, list):
                shown: Any = mx.sum(mask[:, :read]).item()
                kwargs[_FEATURES] = [of_layer[shown:] for of_layer in features]
            mx.eval([layer.state for layer in self.prompt_cache])
            return read

    # As an attribute of the package, `mlx_vlm.generate` is a function.
    module: Any = import_module("mlx_vlm.generate")
    module.PromptProcessingBatch = PromptBatch
