"""The facts about a model in its folder: type, quantization, context length, and whether it can be loaded.

A model's own files decide its type; the name of a repository decides nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from broker.models.architectures import is_audio, knows_architecture, unknown_architecture
from broker.models.audio import AUDIO, check_audio, has_tokenizer
from broker.models.capabilities import capabilities_of, chat_capabilities, hears, parameters_of, tasks_of
from broker.models.entry import CatalogEntry, CatalogError, ModelOverride
from broker.models.weights import are_text_only, missing_shards, part_files
from broker.policy.specs import ModelSpec
from broker.wire.audio_models import audio_family
from broker.wire.failure import Code
from broker.wire.kinds import TEXT, Task

_VISION_KEYS = frozenset({"vision_config", "image_token_id", "image_token_index", "video_token_id"})
_AUDIO_KEYS = frozenset({"audio_config", "codec_config", "sample_rate"})
_EMBEDDING_ARCHITECTURES = ("Bert", "Roberta", "Embedding", "ModernBertModel", "NomicBert")
# Where a configuration keeps the length of a context; the worker asks for the same (worker/loading/model_folder.py).
CONTEXT_KEYS = ("max_position_embeddings", "model_max_length", "max_seq_len", "n_positions", "max_sequence_length")


def read_entry(
    model_id: str, folder: Path, weights: dict[str, int], override: ModelOverride, created: float, *, fetchable: bool
) -> CatalogEntry:
    """The entry of the model in this folder. weights: name -> bytes, of the files beside config.json; created: Unix
    seconds; fetchable: a download could complete the folder. Raises CatalogError and OSError."""
    config = _read_config(folder / "config.json")
    model_type = override.model_type or _served_type(config, folder, weights.keys())
    unknown = unknown_architecture(config, model_type)
    if unknown is not None:
        message = f"{model_id}: config.json names the architecture {unknown!r}, unknown for type {model_type}"
        raise CatalogError(Code.LOAD_FAILED, message)
    if model_type == AUDIO:
        check_audio(model_id, config, folder, fetchable=fetchable)
    weights = _own_weights(model_type, weights)
    if not weights:
        kind = "model*.safetensors" if model_type == TEXT else ".safetensors"
        raise CatalogError(Code.LOAD_FAILED, f"no {kind} file in {folder}", fetchable=fetchable)
    names = list(weights)
    if model_type == AUDIO:  # also codecs and voices
        weights |= {name: size for name, size, _ in part_files(folder)}
    if absent := missing_shards(weights):
        message = f"{folder} lacks {len(absent)} of its weight files, such as {absent[0]!r}"
        raise CatalogError(Code.LOAD_FAILED, message, fetchable=fetchable)
    # A download writes its files in any order. If a copied folder lacks one, the worker says which. Many audio models
    # have none.
    if fetchable and model_type != AUDIO and not has_tokenizer(folder):
        raise CatalogError(Code.LOAD_FAILED, f"{folder} has no tokenizer", fetchable=True)
    spec = override.spec(model_id, model_type, str(folder), sum(weights.values()))
    spec = replace(spec, tasks=tasks_of(model_type, config))
    architecture = config.get("model_type") or (audio_family(config) if model_type == AUDIO else None)
    return CatalogEntry(
        spec,
        _quantization(config),
        0 if model_type == AUDIO else _context_length(config, folder),
        created,
        tuple(_capabilities(config, folder, spec)),
        architecture if isinstance(architecture, str) and architecture.isprintable() else None,
        parameters_of(folder, names, config),
    )


def _capabilities(config: dict[str, Any], folder: Path, spec: ModelSpec) -> list[str]:
    chats = chat_capabilities(folder, spec.options) if Task.GENERATE in spec.tasks else []
    if spec.model_type != "vision":
        return [*capabilities_of(spec.tasks), *chats]
    thinker = config.get("thinker_config")
    parts = config.keys() | (thinker.keys() if isinstance(thinker, dict) else set())
    senses = {"vision": _VISION_KEYS & parts, "audio": hears(config)}
    return [*capabilities_of(spec.tasks), *chats, *(name for name, has in senses.items() if has)]


def has_parts(folder: Path) -> bool:
    """Whether folders within this one are parts of the model in it, and none of them is a model: codecs of audio
    models, modules of sentence transformers."""
    if (folder / "modules.json").exists():
        return True
    config = _read_object(folder / "config.json")
    return bool(config) and _served_type(config, folder, ()) == AUDIO


def detect_type(config: dict[str, Any], sentence_transformer: bool) -> str:
    """text-gen, vision, embeddings or audio. sentence_transformer: modules.json lies beside config.json."""
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if is_audio(config):
        return AUDIO
    if _VISION_KEYS & config.keys():
        return "vision"
    if _AUDIO_KEYS & config.keys():
        return AUDIO
    if sentence_transformer or any(part in name for name in names for part in _EMBEDDING_ARCHITECTURES):
        return "embeddings"
    return TEXT


def _served_type(config: dict[str, Any], folder: Path, weights: Iterable[str]) -> str:
    """The type by the files, and by what the libraries can run: mlx-vlm has some text families that mlx-lm lacks."""
    model_type = detect_type(config, (folder / "modules.json").exists())
    if model_type == "vision" and are_text_only(folder, weights):
        model_type = TEXT
    if model_type == AUDIO and not is_audio(config):  # others may name a sample rate
        return next((kind for kind in (TEXT, "vision") if knows_architecture(config, kind)), AUDIO)
    if model_type == TEXT and unknown_architecture(config, TEXT) is not None:
        return TEXT if unknown_architecture(config, "vision") is not None else "vision"
    return model_type


def _own_weights(model_type: str, weights: dict[str, int]) -> dict[str, int]:
    """Those that this type's library reads: mlx-lm only some names."""
    start = "model" if model_type == TEXT else ""
    return {name: size for name, size in weights.items() if name.startswith(start)}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(Code.LOAD_FAILED, f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CatalogError(Code.LOAD_FAILED, f"{path} is not a JSON object")
    return config


def _quantization(config: dict[str, Any]) -> str | None:
    """Bits of a weight (`4-bit`), or the name of the method if the configuration gives no bits (`fp8`)."""
    quantization = config.get("quantization") or config.get("quantization_config")
    if not isinstance(quantization, dict):
        return None
    bits, method = quantization.get("bits"), quantization.get("quant_method")
    if method == "bitsandbytes":
        bits = 4 if quantization.get("load_in_4bit") else 8
    if type(bits) is int:
        return f"{bits}-bit"
    return method if isinstance(method, str) and method.isprintable() else None


def _context_length(config: dict[str, Any], folder: Path) -> int:
    thinker = config.get("thinker_config")
    config = {**config, **thinker} if isinstance(thinker, dict) else config
    text = config.get("text_config")
    facts = {**config, **text} if isinstance(text, dict) else config
    positions = next((value for key in CONTEXT_KEYS if _is_length(value := facts.get(key))), None)
    # Sentence transformers may be trained for shorter texts than they have positions for.
    lengths = (positions, _read_object(folder / "sentence_bert_config.json").get("max_seq_length"))
    return min((value for value in lengths if _is_length(value)), default=0)


def _is_length(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 2**63


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object beside config.json; empty if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
