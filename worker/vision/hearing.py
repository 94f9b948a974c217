"""How a model hears: at which rate, how long at once, and where the features of each sound go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from broker.wire.kinds import HEARING
from worker.sound.resampling import Samples

# What a model takes beside the tokens of a prompt: of one sound, or of all.
Features = dict[str, mx.array]

_RATE = 16_000


@dataclass(slots=True, frozen=True)
class _Ear:
    """Of a family. features: what its processor makes of sounds; mixes: whether mlx-vlm may give the tokens of one
    sound the features of another, if there are several; longest: seconds of one, the rest is cut off; growth: bytes
    that encoding takes at its peak for each byte of features: the first convolutions make them wide."""

    features: tuple[str, ...] = ("input_features", "input_features_mask")
    mixes: bool = False
    longest: float = 30.0
    growth: int = 300


_EARS = {
    "gemma3n": _Ear(),
    "gemma4": _Ear(mixes=True),
    "gemma4_unified": _Ear(mixes=True, growth=24),
    "qwen3_omni_moe": _Ear(("input_features", "feature_attention_mask"), longest=300.0, growth=700),
}


class Hearing:
    """Of one model. rate: samples per second; longest: seconds of one sound; token: what stands for sounds."""

    def __init__(self, vlm: Any, processor: Any) -> None:
        import_module("mlx_audio.resample")  # takes two seconds, which would be a pause for all at the first sound
        self._vlm = vlm
        self._ear = _EARS[vlm.config.model_type]
        self._extract = processor.feature_extractor
        self.rate = int(getattr(self._extract, "sampling_rate", _RATE))
        self.token = int(thinking(vlm.config).audio_token_id)
        self.longest = self._ear.longest
        if each := getattr(processor, "audio_ms_per_token", None):
            self.longest = min(self.longest, each * processor.audio_seq_length / 1000)
        if most := getattr(self._extract, "n_samples", None):
            self.longest = min(self.longest, most / self.rate)

    def features(self, inputs: dict[str, Any], sounds: Sequence[Samples]) -> list[Features]:
        """Takes those of all sounds out of what the processor has made of a prompt. Where the model would mix them up,
        they are made anew, of each by itself: together they are as long as the longest."""
        together = {name: inputs.pop(name) for name in self._ear.features}
        if not self._ear.mixes:
            return [together]
        made = [self._extract([sound], sampling_rate=self.rate, return_attention_mask=True) for sound in sounds]
        return [{name: mx.array(np.asarray(features[name])) for name in self._ear.features} for features in made]

    def encoding_bytes(self, heard: list[Features]) -> int:
        """What they take until they are embeddings."""
        return sum(value.nbytes for features in heard for value in features.values()) * self._ear.growth

    def beside(self, heard: list[Features]) -> Features:
        """What the model takes together with all tokens. heard: of `features`."""
        return {} if self._ear.mixes or not heard else heard[0]

    def put(self, tokens: list[int], known: dict[str, Any], heard: list[Features]) -> None:
        """Put the embeddings of sounds that it has not taken so among those of all tokens, `known["inputs_embeds"]`."""
        if not self._ear.mixes or not heard:
            return
        embeds = known["inputs_embeds"]
        for (begin, end), sound in zip(_runs(tokens, self.token), heard, strict=True):
            marks = mx.array([tokens[begin:end]])
            own = self._vlm.get_input_embeddings(marks, None, **sound).inputs_embeds
            embeds = mx.concatenate([embeds[:, :begin], own.astype(embeds.dtype), embeds[:, end:]], axis=1)
        known["inputs_embeds"] = embeds


def hearing_of(vlm: Any, processor: Any) -> Hearing | None:
    """None for a model that does not hear, or of a family of which nothing here knows how."""
    hears = vlm.config.model_type in HEARING and getattr(thinking(vlm.config), "audio_config", None) is not None
    return Hearing(vlm, processor) if hears and getattr(processor, "feature_extractor", None) is not None else None


def thinking(config: Any) -> Any:
    """The part of a configuration that knows its tokens: a model that speaks has others."""
    return getattr(config, "thinker_config", config)


def _runs(tokens: list[int], mark: int) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of each row of this token."""
    place = 0
    for token, run in groupby(tokens):
        count = sum(1 for _ in run)
        if token == mark:
            yield place, place + count
        place += count
