"""Loads a speech model and speaks short texts with it. mlx-audio computes. Knows no requests.

A model speaks one text at a time: families keep what they decode with in the model itself.
"""

import json
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.tts.utils import load_model

from broker.wire.audio_models import audio_family
from broker.wire.failure import named_line
from worker.audio.guard import guarded
from worker.audio.voices import ONLY, voices_of
from worker.engine import Report
from worker.loading.model_folder import blame, read_weights
from worker.process.device_errors import is_device_error

# Families whose `speed` does something. Others have the parameter too, and ignore it.
_WITH_SPEED = frozenset({"dramabox", "fish_qwen3_omni", "kitten_tts", "kokoro", "melotts"})

# A family that has the parameter, and takes such words inside the text alone.
_WITHOUT_INSTRUCTIONS = frozenset({"fish_drama3"})

# Families that speak a text in parts which are the same samples as in one go, and how long a part is, in seconds.
_IN_PARTS = {"pocket_tts": 0.5}

# Families that would speak for minutes if a short text had no end: how many tokens make a second, at most.
_TOKENS_PER_SECOND = {
    "kugelaudio": 12.5,
    "moss_tts": 12.5,
    "qwen3_tts": 12.5,
    "rumik_oss": 100.0,
    "spark": 50.0,
    "voxcpm": 12.5,
    "voxcpm2": 12.5,
    "voxtral_tts": 12.5,
}
# A text is given these seconds, and more of them for its characters: numbers take long, and nobody speaks as slowly.
_LEAST_SECONDS, _CHARACTERS_PER_SECOND = 5.0, 2.0
# Where a family has its limit in its files, this one is not above it.
_MOST_TOKENS = 2048

# Parameters that need not be given.
_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

# What turns text into sounds, and does not come with mlx-audio.
_PACKAGES = {"kokoro": "misaki[en]", "kitten_tts": "phonemizer-fork", "melotts": "g2p_en"}

# Of Kokoro's English voices, whose names begin so. misaki would download the second while it speaks, and end the
# process where it cannot.
_ENGLISH = frozenset("ab")
_ENGLISH_PACKAGES = {
    "spacy": "pip install 'misaki[en]'",
    "en_core_web_sm": "python -m spacy download en_core_web_sm",
}

# Spoken while loading: shows that all is there that speaking needs, and what it takes.
PROBE = "This is a test."
_PROBE_INSTRUCTIONS = "A calm voice."


@dataclass(slots=True, frozen=True)
class Sound:
    """Samples from -1 to 1 of one channel, at so many Hz; tokens: as the family counts what it has made for this text
    by now."""

    samples: "np.ndarray[Any, np.dtype[np.float32]]"
    sample_rate: int
    tokens: int


class MissingPackageError(Exception):
    """A Python package that speaking needs is not installed; the message says how to install it."""


class Speaker:
    """A loaded model. family: mlx-audio's name of it; voices: its names, the usual one first; needs_instructions:
    whether it must be told how to speak; work_bytes: what speaking a short sentence takes."""

    def __init__(self, folder: Path, report: Report) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such model folder")
        with blame(folder, "config.json"):
            config = json.loads((folder / "config.json").read_bytes())
            if not isinstance(config, dict):
                raise ValueError("must be an object")
            family = audio_family(config)
            if family is None:
                raise ValueError("names no architecture of audio models")
        with blame(folder, "*.safetensors or config.json"), guarded():
            # Without the name of the folder, which mlx-audio takes for that of a family.
            self._model: Any = load_model(folder, lazy=True, model_type=family, model_name_parts=[])
        self.family = type(self._model).__module__.removeprefix("mlx_audio.tts.models.").partition(".")[0]
        self._takes = signature(self._model.generate).parameters
        if any(it.default is it.empty and it.kind not in _REST for name, it in self._takes.items() if name != "text"):
            raise ValueError(f"{self.family} speaks only with a recording of a voice, which requests cannot give")
        # Qwen3-TTS in one of its three forms draws the voice that it is told to.
        self.needs_instructions = config.get("tts_model_type") == "voice_design"
        report("tokenizer", 1.0)
        with blame(folder, "*.safetensors"):
            self.weights_bytes = read_weights(self._model, report)
        with blame(folder, "config.json or voices.npz"):
            self.voices = voices_of(folder, self.family, config)
        report("first words", None)
        self.work_bytes = self._try()

    @property
    def has_speed(self) -> bool:
        """Whether it can speak faster and slower."""
        return self.family in _WITH_SPEED

    @property
    def has_instructions(self) -> bool:
        """Whether it can be told how to speak."""
        return "instruct" in self._takes and self.family not in _WITHOUT_INSTRUCTIONS

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return int(self._model.sample_rate)

    def count(self, text: str) -> int:
        """Tokens of a text; characters where the family has no tokenizer of its own."""
        encode = getattr(getattr(self._model, "tokenizer", None), "encode", None)
        return len(text) if encode is None else len(encode(text))

    def speak(
        self, text: str, seed: int, *, voice: str | None = None, speed: float = 1.0, instructions: str | None = None
    ) -> Generator[Sound, None, None]:
        """One part after the other, none without samples. Only one text may be spoken at a time; a closed iterator is
        the end of its text. voice: one of `voices`. Raises MissingPackageError."""
        self._check_packages(voice or self.voices[0])
        given = {
            "max_tokens": self._most_tokens(text),
            "voice": None if voice in (None, ONLY) and self.voices == [ONLY] else voice or self.voices[0],
            "speed": None if speed == 1.0 else speed,
            "instruct": instructions,
            "seed": seed if "seed" in self._takes else None,
            "lang_code": (voice or self.voices[0])[0] if self.family == "kokoro" else None,
        }
        if self.family in _IN_PARTS:
            given |= {"stream": True, "streaming_interval": _IN_PARTS[self.family]}
        mx.random.seed(seed)
        with guarded(), self._explaining():
            results = iter(self._model.generate(text, **{k: value for k, value in given.items() if value is not None}))
        try:
            while (result := self._next(results)) is not None:
                samples = _mono(np.asarray(result.audio.astype(mx.float32)))
                if samples.size:
                    yield Sound(samples, int(result.sample_rate), int(result.token_count or 0))
        finally:
            getattr(results, "close", lambda: None)()

    def _next(self, results: Any) -> Any:
        with guarded(), self._explaining():
            try:
                return next(results, None)
            except AssertionError as error:
                if "No audio generated" in str(error):  # how some families say that a text has no sound
                    return None
                raise

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Around what a family does."""
        try:
            yield
        except ImportError as error:
            raise MissingPackageError(self._missing(error)) from error
        except SystemExit as error:  # of a program that a package is made of
            raise RuntimeError(f"{self.family} wanted to end the process, with the code {error.code}") from error

    def _most_tokens(self, text: str) -> int | None:
        """What a text is given, None where the family's own limit is near enough."""
        rate = _TOKENS_PER_SECOND.get(self.family)
        if rate is None:
            return None
        own = self._takes["max_tokens"].default
        most = math.ceil(rate * (_LEAST_SECONDS + len(text) / _CHARACTERS_PER_SECOND))
        return min(most, own if isinstance(own, int) else _MOST_TOKENS)

    def _check_packages(self, voice: str) -> None:
        """Raises MissingPackageError."""
        if self.family == "kokoro" and voice[0] in _ENGLISH and not all(map(find_spec, _ENGLISH_PACKAGES)):
            lines = " and ".join(_ENGLISH_PACKAGES.values())
            raise MissingPackageError(
                f"{self.family} needs packages that are not installed; install them with: {lines}"
            )

    def _missing(self, error: ImportError) -> str:
        package = _PACKAGES.get(self.family) or _root(error).name
        how = f"install it with: pip install '{package}'" if package else str(error)
        return f"{self.family} needs a package that is not installed; {how}"

    def _try(self) -> int:
        """Bytes that speaking takes. Raises ValueError if it cannot speak."""
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        parts = self.speak(PROBE, 0, instructions=_PROBE_INSTRUCTIONS if self.needs_instructions else None)
        try:
            next(parts, None)
        except MissingPackageError as error:
            raise ValueError(str(error)) from error
        except Exception as error:
            if is_device_error(error):
                raise
            raise ValueError(f"{self.family} cannot speak: {named_line(error)}") from error
        finally:
            parts.close()
        used = mx.get_peak_memory() - before
        mx.clear_cache()
        return max(0, used)


def _mono(audio: "np.ndarray[Any, np.dtype[np.float32]]") -> "np.ndarray[Any, np.dtype[np.float32]]":
    audio = audio.squeeze()
    if audio.ndim < 2:
        return audio.reshape(-1)
    channels = int(audio.shape[-1] < audio.shape[-2])
    mean: np.ndarray[Any, np.dtype[np.float32]] = audio.mean(axis=channels, dtype=np.float32)
    return mean


def _root(error: ImportError) -> ImportError:
    """The one that names the module."""
    cause = error.__cause__
    return _root(cause) if isinstance(cause, ImportError) else error
