"""Which engine an audio model gets: one that transcribes, or one that speaks. Decided by its configuration alone."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mlx_audio.registry import classify_model, model_type_from_config
from mlx_audio.utils import load_config

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
    model_type = model_type_from_config(config)
    kind = classify_model(model_type) if isinstance(model_type, str) else None
    if kind not in _ENGINES:
        raise ValueError(f"model_type {model_type!r} neither transcribes nor speaks")
    return str(kind)
