"""Which models this machine has: names, types and sizes, read from files and settings. Never imports mlx, never
loads anything, never follows a name out of its folder.

A model id is a name: `org/name` in the Hugging Face cache, or a folder (one or two levels deep) under the models
directory. A model's own files decide its type; the name of a repository decides nothing.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from broker.models.architectures import unknown_architecture
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.kinds import KINDS

_VISION_KEYS = frozenset({"vision_config", "image_token_id", "image_token_index", "video_token_id"})
_AUDIO_KEYS = frozenset({"audio_config", "codec_config", "sample_rate"})
# Where a configuration keeps the length of a context; the worker asks for the same (worker/loading/model_folder.py).
CONTEXT_KEYS = ("max_position_embeddings", "model_max_length", "max_seq_len", "n_positions", "max_sequence_length")
# Any of these is a tokenizer.
_TOKENIZERS = ("tokenizer*", "vocab*", "*.tiktoken", "tekken.json", "spiece.model", "sentencepiece*")
# In the names of tensors that see.
_EYES = ("vision", "visual", "image", "patch", "vit.")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<total>\d{5})\.safetensors")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_EMBEDDING_ARCHITECTURES = ("Bert", "Roberta", "Embedding", "ModernBertModel", "NomicBert")


logger = logging.getLogger(__name__)


class CatalogError(FailureError):
    """There is no such model (MODEL_NOT_FOUND), or it cannot be used (LOAD_FAILED). fetchable: its name may be a
    repository's, and the Hugging Face cache does not hold all of it."""

    def __init__(self, code: Code, message: str, *, fetchable: bool = False) -> None:
        super().__init__(Failure(code, message))
        self.fetchable = fetchable


@dataclass(slots=True, frozen=True)
class ModelOverride:
    """What the settings file says about one model. engine: `module:Class` (then no files are needed)."""

    model_type: str | None = None
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive_seconds: float | None = None
    memory_limit_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class Entry:
    """One model as its files describe it. created: Unix seconds; context_length: tokens, 0 if unknown."""

    spec: ModelSpec
    quantization: str | None
    context_length: int
    created: float


# The folder, its inode, and when it, its config.json and each of its weights were written, with their sizes.
_Signature = tuple[Path, int, int, int, tuple[tuple[str, int, int], ...]]


class Catalog:
    """Looks a model up whenever it is asked; what was read is kept until the folder, its config.json or its weights
    change."""

    def __init__(self, models_dir: Path, hub_dir: Path, overrides: dict[str, ModelOverride]) -> None:
        self._models_dir = models_dir
        self._hub_dir = hub_dir
        self._overrides = overrides
        self._read: dict[str, tuple[_Signature, Entry]] = {}

    def find(self, model_id: str) -> ModelSpec:
        """The spec of this model. Raises CatalogError that names what is missing."""
        return self._entry(model_id).spec

    def entries(self) -> list[Entry]:
        """Every usable model of this machine, by name."""
        entries = []
        for model_id in sorted({name for name in self._names() if name.isprintable()}):
            if not _is_text(model_id):
                continue  # a folder whose name is not UTF-8 cannot be asked for
            try:
                entries.append(self._entry(model_id))
            except CatalogError:
                continue
        return entries

    def _entry(self, model_id: str) -> Entry:
        try:
            return self._look(model_id)
        except CatalogError:
            raise
        except Exception as error:  # whatever a folder holds, it must not end the broker, and with it every model
            logger.exception("cannot read the files of %r", model_id)
            message = f"{model_id}: its files cannot be read: {type(error).__name__}: {str(error)!a}"
            raise CatalogError(Code.LOAD_FAILED, message) from error

    def _look(self, model_id: str) -> Entry:
        override = self._overrides.get(model_id, ModelOverride())
        if override.engine is not None:
            return Entry(_spec(model_id, override.model_type or "text-gen", Path(), 0, override), None, 0, 0.0)
        root, folder = self._folder(model_id)
        fetchable = root == self._hub_dir and _is_repository(model_id)
        try:
            config_stat, folder_stat = (folder / "config.json").stat(), folder.stat()
        except OSError as error:
            message = f"{model_id}: {error.strerror}: {error.filename}"
            raise CatalogError(Code.MODEL_NOT_FOUND, message, fetchable=fetchable) from error
        try:
            weights = _weights(folder)
        except OSError as error:
            raise CatalogError(Code.LOAD_FAILED, f"{error.filename}: {error.strerror}") from error
        signature = (folder, folder_stat.st_ino, folder_stat.st_mtime_ns, config_stat.st_mtime_ns, weights)
        known = self._read.get(model_id)
        if known is not None and known[0] == signature:
            return self._with_draft(known[1], override)
        # Not at every use, because resolving takes longer than all the rest: a link turned elsewhere has another inode.
        if not folder.resolve().is_relative_to(root.resolve()):
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id} is a link that leaves {root}")
        sizes = {name: size for name, size, _ in weights}
        entry = _read_entry(model_id, folder, sizes, override, config_stat.st_mtime, fetchable=fetchable)
        self._read[model_id] = (signature, entry)
        return self._with_draft(entry, override)

    def _with_draft(self, entry: Entry, override: ModelOverride) -> Entry:
        """The draft model, a name or the path of a folder, by its folder; its weights counted with the model's."""
        draft, spec = override.options.get("draft_model"), entry.spec
        if not isinstance(draft, str):
            return entry
        try:
            is_path = draft.startswith(("/", "~", "."))
            folder = Path(draft).expanduser().absolute() if is_path else self._folder(draft)[1]
            weight_bytes = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
        except (CatalogError, OSError, RuntimeError) as error:  # RuntimeError: the home of nobody
            raise CatalogError(Code.LOAD_FAILED, f"{spec.model_id}: draft_model: {error}") from error
        options = {**spec.options, "draft_model": str(folder)}
        return replace(entry, spec=replace(spec, options=options, weight_bytes=spec.weight_bytes + weight_bytes))

    def _folder(self, model_id: str) -> tuple[Path, Path]:
        """Where it was found, and the folder itself, which may still be a link."""
        parts = model_id.split("/")
        if len(parts) > 2 or any(part[:1] in ("", ".") or "\\" in part or "\0" in part for part in parts):
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id!r} is not a model name: one is `name` or `org/name`")
        problem: OSError | None = None
        # The cache is looked into only where the folder has no such model: it may be on a mount that hangs.
        for root, find in ((self._models_dir, self._models_dir.joinpath), (self._hub_dir, self._snapshot)):
            try:
                folder = find(*parts)
                if folder is not None and folder.is_dir():
                    return root, folder
            except OSError as error:  # a name too long for a file, a disk that has gone: the other may have it
                problem = problem or error
        if problem is not None:
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id}: {problem.strerror}") from problem
        message = f"no model named {model_id!r} in {self._models_dir} or the Hugging Face cache"
        if fetchable := _is_repository(model_id):
            message += "; an administrator's load fetches it if the Hugging Face hub has it"
        raise CatalogError(Code.MODEL_NOT_FOUND, message, fetchable=fetchable)

    def _snapshot(self, *parts: str) -> Path | None:
        repository = self._hub_dir / "--".join(("models", *parts))
        try:
            revision = (repository / "refs" / "main").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return repository / "snapshots" / revision

    def _names(self) -> Iterator[str]:
        yield from (name for name, override in self._overrides.items() if override.engine is not None)
        for folder in _found(self._models_dir, "[!.]*"):
            for pattern in ("config.json", "[!.]*/config.json"):
                for config in _found(folder, pattern):
                    yield config.parent.relative_to(self._models_dir).as_posix()
        for repository in _found(self._hub_dir, "models--*"):
            yield "/".join(repository.name.split("--")[1:])


def _found(directory: Path, pattern: str) -> Iterator[Path]:
    """What there is; as much as can be seen of what lies on a disk that has gone, say, which must end nobody."""
    try:
        yield from directory.glob(pattern)
    except OSError as error:
        logger.warning("cannot look for models in %s: %s", directory, error.strerror)


def _read_entry(
    model_id: str, folder: Path, weights: dict[str, int], override: ModelOverride, created: float, *, fetchable: bool
) -> Entry:
    """weights: name -> bytes."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogError(Code.LOAD_FAILED, f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CatalogError(Code.LOAD_FAILED, f"{folder / 'config.json'} is not a JSON object")
    model_type = override.model_type or _served_type(config, folder, weights)
    if KINDS[model_type].engine is None:
        raise CatalogError(
            Code.LOAD_FAILED, f"{model_id} is a model of type {model_type}, which this version cannot run"
        )
    unknown = unknown_architecture(config, model_type)
    if unknown is not None:
        message = f"{model_id}: config.json names the architecture {unknown!r}, unknown for type {model_type}"
        raise CatalogError(Code.LOAD_FAILED, message)
    if model_type == "text-gen":  # mlx-lm reads no others
        weights = {name: size for name, size in weights.items() if name.startswith("model")}
    if not weights:
        kind = "model*.safetensors" if model_type == "text-gen" else ".safetensors"
        raise CatalogError(Code.LOAD_FAILED, f"no {kind} file in {folder}", fetchable=fetchable)
    if absent := _absent_shards(weights):
        message = f"{folder} lacks {len(absent)} of its weight files, such as {absent[0]!r}"
        raise CatalogError(Code.LOAD_FAILED, message, fetchable=fetchable)
    # A download writes its files in any order. Of a folder the worker says what is missing.
    if fetchable and not any(True for pattern in _TOKENIZERS for _ in folder.glob(pattern)):
        raise CatalogError(Code.LOAD_FAILED, f"{folder} has no tokenizer", fetchable=True)
    spec = _spec(model_id, model_type, folder, sum(weights.values()), override)
    return Entry(spec, _quantization(config), _context_length(config, folder), created)


def _served_type(config: dict[str, Any], folder: Path, weights: dict[str, int]) -> str:
    """As the files have it, and as the libraries have it: some families are there for vision only."""
    model_type = detect_type(config, (folder / "modules.json").exists())
    if model_type == "vision" and _has_no_eyes(folder, weights):
        model_type = "text-gen"
    if model_type in ("text-gen", "audio") and unknown_architecture(config, "text-gen") is not None:
        return model_type if unknown_architecture(config, "vision") is not None else "vision"
    return model_type


def detect_type(config: dict[str, Any], sentence_transformer: bool) -> str:
    """text-gen, vision, embeddings or audio, from config.json (and whether modules.json lies beside it)."""
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if _VISION_KEYS & config.keys():
        return "vision"
    if _AUDIO_KEYS & config.keys():
        return "audio"
    if sentence_transformer or any(part in name for name in names for part in _EMBEDDING_ARCHITECTURES):
        return "embeddings"
    return "text-gen"


def _spec(model_id: str, model_type: str, folder: Path, weight_bytes: int, override: ModelOverride) -> ModelSpec:
    return ModelSpec(
        model_id,
        model_type,
        str(folder),
        weight_bytes,
        override.engine,
        override.options,
        override.keep_alive_seconds,
        override.memory_limit_bytes,
    )


def _is_repository(model_id: str) -> bool:
    """Whether this can be the name of a repository of the Hugging Face hub."""
    return _REPOSITORY.fullmatch(model_id) is not None and "--" not in model_id and ".." not in model_id


def _weights(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, bytes, when it was written) of each weight file, but for adapters and the second set of weights that some
    repositories have. Raises OSError."""
    found = []
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".safetensors") and not file.name.startswith(("adapter", "consolidated", ".")):
                stat = file.stat()
                found.append((file.name, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def _absent_shards(weights: Iterable[str]) -> list[str]:
    """What `model-00001-of-00003.safetensors` says must lie beside it: a copy or download may have been cut short. The
    index is not asked, because some repositories hold that of another checkpoint, and mlx-lm ignores it."""
    there = set(weights)
    parts = {(m["name"], m["total"]) for name in there if (m := _SHARD.fullmatch(name)) and int(m["total"]) < 10_000}
    named = {f"{name}-{n:05d}-of-{total}.safetensors" for name, total in parts for n in range(1, int(total) + 1)}
    return sorted(named - there)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quantization(config: dict[str, Any]) -> str | None:
    """Bits of a weight, or the name of the method where it tells no bits (`fp8`)."""
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
    text = config.get("text_config")
    facts = {**config, **text} if isinstance(text, dict) else config
    positions = next((value for key in CONTEXT_KEYS if _is_length(value := facts.get(key))), None)
    # Sentence transformers may be made for shorter texts than they have positions for.
    lengths = (positions, _read_object(folder / "sentence_bert_config.json").get("max_seq_length"))
    return min((value for value in lengths if _is_length(value)), default=0)


def _is_length(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 2**63


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object beside config.json; empty if it is not there or is something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _has_no_eyes(folder: Path, weights: Iterable[str]) -> bool:
    """Whether these files hold tensors, and none for pictures: a text-only checkpoint of a multimodal family."""
    names = [name.lower() for file in weights for name in _tensor_names(folder / file)]
    return bool(names) and not any(part in name for name in names for part in _EYES)


def _tensor_names(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MAX_HEADER_BYTES else None
    except (OSError, ValueError, RecursionError):
        return
    yield from (name for name in header if name != "__metadata__") if isinstance(header, dict) else ()
