"""Which family of mlx-audio an audio model belongs to, by its config.json alone. Broker and worker ask the same.

Many of these models name no `model_type`: mlx-audio then goes by the name of the repository, which decides nothing
here. Such a family is recognised by fields that no other has. Whether mlx-audio can run a family, and whether it
transcribes or speaks, is not known here.
"""

from collections.abc import Callable, Mapping
from typing import Any

_Config = Mapping[str, Any]

# Names that mlx-audio knows by another one only.
_ALIASES = {"nemotron_asr_streaming": "nemotron_asr"}

# NeMo names the class of a model; its conversions keep that.
_NEMO = (
    ("EncDecMultiTaskModel", "canary"),
    ("EncDecRNNTBPEModelWithPrompt", "nemotron_asr"),
    ("EncDecRNNTBPEModel", "parakeet"),
    ("EncDecHybridRNNTCTCBPEModel", "parakeet"),
    ("EncDecCTCModelBPE", "parakeet"),
)


def audio_family(config: _Config) -> str | None:
    """The name that mlx-audio knows such a model by, None if config.json gives none. It may be no audio model at all:
    then this is its `model_type` in lower case."""
    stated = config.get("model_type") or config.get("architecture")
    name = stated.lower() if isinstance(stated, str) else None
    if name is None:
        return next((family for family, fits in _BY_FIELDS if fits(config)), _nemo(config))
    return _within(name, config) or _ALIASES.get(name, name)


def _within(name: str, config: _Config) -> str | None:
    """The family of a model that shares its name with others."""
    if name == "llama" and "acoustic_dim" in config:
        return "tada"
    if name == "vibevoice":
        return "vibevoice_asr" if any("ASR" in one for one in _architectures(config)) else "vibevoice_streaming"
    if name == "wav2vec2" and "Wav2Vec2ForCTC" in _architectures(config):
        return "mms"
    if name == "qwen3_asr" and _object(config, "thinker_config").get("model_type") == "qwen3_forced_aligner":
        return "qwen3_forced_aligner"
    if name == "qwen2" and {"speech_vocab_size", "delay_pattern"} <= config.keys():
        return "mimo_audio"
    return None


def _nemo(config: _Config) -> str | None:
    target = config.get("target")
    if not isinstance(target, str) or not target.startswith("nemo.collections.asr."):
        return None
    return next((family for name, family in _NEMO if target.endswith(f".{name}")), None)


def _has(*fields: str) -> Callable[[_Config], bool]:
    return lambda config: config.keys() >= set(fields)


def _is_dia(config: _Config) -> bool:
    """Its first releases describe it in three objects."""
    return {"encoder", "decoder"} <= _object(config, "model").keys() and "delay_pattern" in _object(config, "data")


_BY_FIELDS: tuple[tuple[str, Callable[[_Config], bool]], ...] = (
    ("whisper", _has("n_mels", "n_audio_ctx", "n_audio_state", "n_text_ctx", "n_text_state")),  # as mlx-whisper has it
    ("kokoro", _has("istftnet", "plbert", "style_dim")),
    ("csm", _has("backbone_flavor", "audio_num_codebooks", "audio_vocab_size")),
    ("pocket_tts", _has("flow_lm", "mimi")),
    ("dia", _is_dia),
)


def _object(config: _Config, field: str) -> _Config:
    value = config.get(field)
    return value if isinstance(value, dict) else {}


def _architectures(config: _Config) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []
