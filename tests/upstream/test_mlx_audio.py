"""Contracts of mlx-audio: see docs/upstream.md."""

import ast
import inspect
import re
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_audio.utils
import numpy as np
from mlx_audio.stt import load
from mlx_audio.stt.models.whisper.decoding import DecodingOptions
from mlx_audio.tts.models import pocket_tts
from mlx_audio.utils import base_load_model, resample_audio

from tests.tiny_audio import make_tiny_whisper
from worker.audio.families import FAMILIES
from worker.audio.speaker import _TOKENS_PER_SECOND


def test_mlx_audio_resampling() -> None:
    """A tone keeps its height and its strength, and one that is too high for the new rate goes."""
    places = np.arange(44_100, dtype=np.float32) / 44_100
    for height, strength in ((440, 0.5), (12_000, 0.0)):
        tone = (0.5 * np.sin(2 * np.pi * height * places)).astype(np.float32)
        heard = np.asarray(resample_audio(tone, 44_100, 16_000), np.float32)
        assert heard.shape == (16_000,)
        middle = heard[1000:-1000]
        wanted = 0.5 * np.sin(2 * np.pi * height * np.arange(16_000) / 16_000)[1000:-1000] * (strength / 0.5)
        assert float(np.abs(middle - wanted).max()) < 5e-3


def test_mlx_audio_whisper(tmp_path: Path) -> None:
    """An attempt asks the model for a tokenizer, and encoded sound is not encoded again."""
    model: Any = load(make_tiny_whisper(tmp_path))
    own = model.get_tokenizer()
    assert {"eot", "timestamp_begin", "no_timestamps", "no_speech", "non_speech_tokens"} <= set(dir(own))
    asked = []

    def get_tokenizer(**given: Any) -> Any:
        asked.append(given)
        return own

    model.get_tokenizer = get_tokenizer
    options = DecodingOptions(language="en", temperature=0.0)
    first = model.decode(mx.zeros((3000, 80)), options)
    assert asked == [{"language": "en", "task": "transcribe"}]
    del model.encoder
    again = model.decode(first.audio_features, options)
    assert again.tokens == first.tokens


def _parameters(folder: Path) -> set[str]:
    """Of `generate`, in the files of a family."""
    return {
        argument.arg
        for path in folder.glob("*.py")
        for part in ast.walk(ast.parse(path.read_text()))
        if isinstance(part, ast.FunctionDef) and part.name == "generate"
        for argument in (*part.args.args, *part.args.kwonlyargs)
    }


def test_mlx_audio_families() -> None:
    """Families that transcribe have the parameters that they are given."""
    for name, family in FAMILIES.items():
        own = "qwen3_asr" if family.passes or name == "phonon" else name
        taken = _parameters(Path(mlx_audio.utils.__file__).parent / "stt" / "models" / own)
        given = set(family.language if family.naming else ()) | ({family.prompt} if family.prompt else set())
        assert given | family.passes <= taken, name


def test_mlx_audio_speech() -> None:
    """A model is loaded by the family that is given, and families take what they are asked."""
    assert {"model_type", "model_name_parts"} <= set(
        re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(base_load_model))
    )
    families = Path(mlx_audio.utils.__file__).parent / "tts" / "models"

    def source(family: str) -> str:
        return "".join(path.read_text() for path in (families / family).glob("*.py"))

    heeds = r"/ speed|1\.0 / speed|_adjust_speed\(audio, speed\)|chars_per_second \* speed"
    for family in ("dramabox", "fish_qwen3_omni", "kitten_tts", "kokoro", "melotts"):
        assert re.search(heeds, source(family)), family
    assert '"No audio generated"' in source("kokoro")
    assert "does not support speed" in source("fish_drama3")
    assert "not instruct" in source("fish_drama3")
    assert "tts_model_type" in source("qwen3_tts")
    for family in _TOKENS_PER_SECOND:
        assert "max_tokens" in _parameters(families / family), family
    taken = signature(pocket_tts.Model.generate).parameters
    assert {"text", "voice", "stream", "streaming_interval"} <= taken.keys()
