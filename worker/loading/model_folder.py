"""Loads an MLX model folder: config.json, *.safetensors, the tokenizer's files.

Every defect of a folder is a ValueError that begins with the file at fault. Never downloads, and never runs code that
comes with a model.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_config, load_model, load_tokenizer

from broker.wire.failure import one_line
from worker.engine import Report
from worker.loading.layout import give_back, transpose_for_blas

log = logging.getLogger("worker")

# Weights are read in pieces of this size, so that a slow disk shows progress.
_CHUNK_BYTES = 256 * 2**20

# The fields for the context length in the families of mlx-lm, most common first.
CONTEXT_KEYS = ("max_position_embeddings", "model_max_length", "max_seq_len", "n_positions", "max_sequence_length")


@dataclass(slots=True, frozen=True)
class LoadedModel:
    """model: callable of mlx-lm; tokenizer: its TokenizerWrapper. vocabulary, context_length: tokens, 0 if unknown."""

    model: Any
    tokenizer: Any
    weights_bytes: int
    vocabulary: int
    context_length: int


def load_folder(
    folder: Path, report: Report, adapter_path: str | None = None, chat_template: str | None = None
) -> LoadedModel:
    """The model in `folder`, its weights in memory. adapter_path: the folder of a LoRA adapter; chat_template: replaces
    the model's own. Raises ValueError naming the file at fault."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such model folder")
    with blame(folder, "config.json"):
        config = load_config(folder)
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError("model_type is missing")
        facts = text_facts(config)
    for file in sorted(folder.glob("model*.safetensors")):
        # Reads only the header, and compares it with the size of the file.
        with blame(folder, file.name):
            mx.load(str(file))
    with blame(folder, "model*.safetensors or config.json"):
        model, config = load_model(folder, lazy=True)
    if adapter_path is not None:
        from mlx_lm.tuner.utils import load_adapters  # noqa: PLC0415 # what trains adapters comes with it

        adapter = Path(adapter_path).expanduser()
        with blame(adapter, f"adapter_path {adapter.name}: adapter_config.json or adapters.safetensors"):
            model = load_adapters(model, str(adapter))
            model.eval()
    template = None if chat_template is None else template_text(chat_template)
    with blame(folder, "tokenizer.json or tokenizer_config.json"):
        tokenizer = load_tokenizer(folder, tokenizer_settings(template), eos_token_ids=config.get("eos_token_id"))
        if not tokenizer.has_chat_template and (template := _processors_template(folder)):
            tokenizer = load_tokenizer(folder, tokenizer_settings(template), eos_token_ids=config.get("eos_token_id"))
    if not tokenizer.has_chat_template:
        log.warning("%s has no chat template: its chats are lines that begin with USER:", folder.name)
    report("tokenizer", 1.0)
    transpose_for_blas(model, biased=False)  # so that every bit is as mlx-lm has it
    with blame(folder, "model*.safetensors"):
        weights_bytes = read_weights(model, report)
    return LoadedModel(
        model,
        tokenizer,
        weights_bytes,
        vocabulary=first_int(facts, ("vocab_size",)) or len(tokenizer),
        context_length=first_int(facts, CONTEXT_KEYS),
    )


def _processors_template(folder: Path) -> str | None:
    """The template in chat_template.json, where processors of multimodal models have it and tokenizers do not look."""
    file = folder / "chat_template.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    found = content.get("chat_template") if isinstance(content, dict) else None
    if not isinstance(found, str):
        raise ValueError("chat_template.json has no chat_template")
    return found


def template_text(given: str) -> str:
    """A chat template: the text itself, or if it has no brace, the text of the file with this path. Raises
    ValueError."""
    if "{" in given:
        return given
    file = Path(given).expanduser()
    with blame(file.parent, f"chat_template {file.name}"):
        return file.read_text(encoding="utf-8")


def tokenizer_settings(chat_template: str | None) -> dict[str, Any]:
    """The settings with which mlx-lm loads a tokenizer. None: with the template of its folder."""
    return {"trust_remote_code": False} | ({} if chat_template is None else {"chat_template": chat_template})


@contextmanager
def blame(folder: Path, files: str) -> Iterator[None]:
    """Turns any exception within into a ValueError of one line that begins with the names of these files."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{files}: missing") from error
    except Exception as error:
        # One line, and without the path: this goes to clients.
        text = one_line(error).replace(str(folder), folder.name)
        is_told = bool(text) and isinstance(error, ValueError | RuntimeError)
        named = text if is_told else f"{type(error).__name__}: {text}".rstrip(": ")
        raise ValueError(f"{files}: {named}") from error


def read_weights(model: Any, report: Report) -> int:
    """Bring the weights of a lazily loaded model into memory; their bytes."""
    named: Any = tree_flatten(model.parameters())
    weights: list[mx.array] = [weight for _, weight in named]
    total = sum(weight.nbytes for weight in weights)
    done = pending = 0
    chunk: list[mx.array] = []
    for weight in weights:
        chunk.append(weight)
        pending += weight.nbytes
        if pending >= _CHUNK_BYTES:
            mx.eval(chunk)
            done, pending, chunk = done + pending, 0, []
            report("weights", done / total)
    mx.eval(chunk)
    give_back()
    report("weights", 1.0)
    return total


def text_facts(config: dict[str, Any]) -> dict[str, Any]:
    """The facts of the language model in a config.json: multimodal folders keep them one level down, those of models
    that speak two. Raises ValueError."""
    thinker = config.get("thinker_config")
    config = {**config, **thinker} if isinstance(thinker, dict) else config
    text = config.get("text_config") or {}
    if not isinstance(text, dict):
        raise ValueError("text_config must be an object")
    return {**config, **text}


def first_int(config: dict[str, Any], keys: tuple[str, ...]) -> int:
    """The first of these fields with a positive whole number, else 0."""
    return next((value for key in keys if type(value := config.get(key)) is int and value > 0), 0)
