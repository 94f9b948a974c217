"""Which engine an audio model gets: one that transcribes, or one that speaks. Decided by its configuration alone."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mlx_audio.registry import classify_model
from mlx_audio.utils import load_config

from broker.wire.audio_models import audio_family
from broker.wire.to_workers import Assign
from worker.engine import Engine, Report
from worker.loading.model_folder import blame

# What mlx-audio calls a kind of model -> its engine. Imported when a model needs it: each brings libraries of its own.
_ENGINES = {"stt": "worker.audio.transcription:TranscriptionEngine", "tts": "worker.audio.speech:SpeechEngine"}


def audio_engine(assign: Assign, report: Report) -> Engine:
    """The engine for the model in this folder, loaded. Raises ValueError naming the file at fault."""
    folder = Path(assign.path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such model folder")
    with blame(folder, "config.json"):
        kind = _kind_of(load_config(folder))
    module, _, name = _ENGINES[kind].partition(":")
    engine: Engine = getattr(import_module(module), name)(assign, report)
    return engine


def _kind_of(config: Any) -> str:
    """stt or tts. Raises ValueError for what is neither."""
    if not isinstance(config, dict):
        raise ValueError("is not a JSON object")
    family = audio_family(config)
    kind = None if family is None else classify_model(family)
    if kind not in _ENGINES:
        raise ValueError(f"names {family or 'no architecture'}, which neither transcribes nor speaks")
    return str(kind)
