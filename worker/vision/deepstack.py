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
# (the GenerationBatch of a prompt that has been read, the logits of its first token, (1, vocabulary)).
Read = Callable[[Any, mx.array], None]


# Attributes of a language model.
_PREFILL, _READ = "mlx_broker_prefill", "mlx_broker_read"


def prefill_by(language_model: Any, prefill: Prefill, read: Read) -> None:
    """Patch mlx-vlm for this model: every BatchGenerator looks its class of prompts up in the module. prefill: does
    each step of those prompts that may be prefilled in pieces. read: told of the end of each."""
    setattr(language_model, _PREFILL, prefill)
    setattr(language_model, _READ, read)
    # As an attribute of the package, `mlx_vlm.generate` is a function.
    module: Any = import_module("mlx_vlm.generate")
    module.PromptProcessingBatch = _PromptBatch


class _PromptBatch(PromptProcessingBatch):  # type: ignore[misc] # mlx-vlm is not read by mypy
    """As mlx-vlm's for a model without the attributes."""

    logits_processors: list[Any]  # of each sequence, if one has any
    _token_context: list[list[int]]

    def prompt_step(self) -> int:
        in_pieces: Any = self.prefill_step_size
        prefill: Prefill | None = getattr(self.model, _PREFILL, None)
        if prefill is None or in_pieces is None or not self.needs_processing():
            return int(super().prompt_step())
        return prefill(self._inputs_embeds.shape[1], self._processed_prompt_columns, self._piece)

    def generate(self, *arguments: Any, **rest: Any) -> Any:
        read: Read | None = getattr(self.model, _READ, None)
        if read is None:
            return super().generate(*arguments, **rest)
        own, context = self.logits_processors, self._token_context
        found: list[mx.array] = []

        def keep(_tokens: mx.array, logits: mx.array) -> mx.array:
            found.append(logits)
            return logits

        self.logits_processors = [[keep, *((own and own[0]) or [])]]
        self._token_context = context or [[]]
        batch: Any = super().generate(*arguments, **rest)
        batch.logits_processors, batch.token_context = own, context
        read(batch, found[0])
        return batch

    def _piece(self, most: int) -> int:
        kwargs: dict[str, Any] = self._prompt_kwargs
        features: Any = kwargs.get(_FEATURES)
        mask: Any = kwargs.get(_MASK)
        self.prefill_step_size = most
        done = int(super().prompt_step())
        # A release of mlx-vlm that drops them itself would have replaced them.
        if done and mask is not None and kwargs.get(_FEATURES) is features and isinstance(features, list):
            shown: Any = mx.sum(mask[:, :done]).item()
            kwargs[_FEATURES] = [of_layer[shown:] for of_layer in features]
        mx.eval([layer.state for layer in self.prompt_cache])
        return done
