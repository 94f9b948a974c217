"""How a model hears: at which rate, how long at once, and where the features of each sound go."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from broker.wire.kinds import HEARING
from worker.vision.sounds import Samples

# What processors make of sounds, and models turn into embeddings.
FEATURES = ("input_features", "input_features_mask")

_RATE = 16_000


class Hearing:
    """Of one model. rate: samples per second; longest: seconds of one sound; token: what stands for sounds."""

    def __init__(self, vlm: Any, processor: Any) -> None:
        import_module("mlx_audio.resample")  # takes two seconds, which would be a pause for all at the first sound
        self._vlm = vlm
        self._extract = processor.feature_extractor
        self.rate = int(getattr(self._extract, "sampling_rate", _RATE))
        self.token = int(vlm.config.audio_token_id)
        # What is longer is cut off without a word.
        self.longest = processor.audio_seq_length * processor.audio_ms_per_token / 1000

    def features(self, sounds: Sequence[Samples]) -> list[dict[str, mx.array]]:
        """Of each sound by itself: together they would be as long as the longest, and the model would give the tokens
        of one the features of another."""
        made = [self._extract([sound], sampling_rate=self.rate, return_attention_mask=True) for sound in sounds]
        return [{name: mx.array(np.asarray(features[name])) for name in FEATURES} for features in made]

    def hear(self, tokens: list[int], known: dict[str, Any], features: list[dict[str, mx.array]]) -> None:
        """Put the embeddings of the sounds among those of all tokens, `known["inputs_embeds"]`."""
        embeds = known["inputs_embeds"]
        for (begin, end), sound in zip(_runs(tokens, self.token), features, strict=True):
            marks = mx.array([tokens[begin:end]])
            heard = self._vlm.get_input_embeddings(marks, None, **sound).inputs_embeds
            embeds = mx.concatenate([embeds[:, :begin], heard.astype(embeds.dtype), embeds[:, end:]], axis=1)
        known["inputs_embeds"] = embeds


def hearing_of(vlm: Any, processor: Any) -> Hearing | None:
    """None for a model that does not hear, or of a family of which nothing here knows how."""
    hears = vlm.config.model_type in HEARING and getattr(vlm.config, "audio_config", None) is not None
    return Hearing(vlm, processor) if hears and getattr(processor, "feature_extractor", None) is not None else None


def _runs(tokens: list[int], mark: int) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of each row of this token."""
    place = 0
    for token, run in groupby(tokens):
        count = sum(1 for _ in run)
        if token == mark:
            yield place, place + count
        place += count
