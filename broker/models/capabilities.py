"""What a model can do and how large it is, as far as its files say it without being loaded.

Reads a few small files and the headers of weights, once for each model (catalog.py keeps what was read). A file that
cannot be read says nothing.
"""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

import json
import re
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from broker.models.architectures import audio_tasks
from broker.models.weights import tensors
from broker.wire.kinds import HEARING, KINDS, Task

# What models write around their reasoning. A tokenizer with one of these pairs has it
# (worker/generation/reasoning.py, and mlx-lm, ask the same of the loaded one).
REASONING_MARKS = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
    ("<|channel|>", "<|message|>"),
    ("<|open|>", "<|close|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("[THINK]", "[/THINK]"),
)
# What fills in the middle: the marks of one form, all of them (worker/generation/infill.py has how they are written).
INFILL_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("[SUFFIX]", "[PREFIX]"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"),
)
_TOOLS = re.compile(r"\btools\b")
_MARKS = {"infill": INFILL_MARKS, "reasoning": REASONING_MARKS}
_MAX_BYTES = 32 << 20
# In tokenizer.json tokens with a meaning of their own come first, before the vocabulary.
_ADDED_TOKENS_BYTES = 1 << 20


def tasks_of(model_type: str, config: dict[str, Any]) -> frozenset[Task]:
    """The work that a model of this type does by its configuration."""
    tasks = KINDS[model_type].tasks
    if Task.TRANSCRIBE in tasks:
        return tasks & audio_tasks(config)
    if Task.RERANK in tasks:
        architectures = config.get("architectures")
        names = architectures if isinstance(architectures, list) else []
        is_reranker = any(str(name).endswith("ForSequenceClassification") for name in names)
        tasks = tasks & {Task.RERANK if is_reranker else Task.EMBED}
    return tasks


def capabilities_of(tasks: frozenset[Task]) -> list[str]:
    """These tasks as capabilities. To count a prompt is a part of answering it."""
    return sorted(str(task) for task in tasks - {Task.COUNT})


def hears(config: dict[str, Any]) -> bool:
    """Whether this vision model takes audio in chats: the larger ones of a family may have no part for it."""
    family, thinker = config.get("model_type"), config.get("thinker_config")
    part = thinker if isinstance(thinker, dict) else config  # of a model that speaks
    return isinstance(family, str) and family in HEARING and isinstance(part.get("audio_config"), dict)


def chat_capabilities(folder: Path, options: dict[str, Any]) -> list[str]:
    """`tools`: its chat template writes them. `reasoning`, `infill`: its tokenizer has marks for it. options: of its
    engine."""
    found = []
    form = options.get("tool_form")
    if form == "generic" or (form != "refuse" and _TOOLS.search(_template(folder, options.get("chat_template")))):
        found.append("tools")
    tokens = _text(folder / "tokenizer_config.json") + _text(folder / "tokenizer.json", _ADDED_TOKENS_BYTES)
    found += [name for name, forms in _MARKS.items() if any(_has(tokens, marks) for marks in forms)]
    return sorted(found)


def _has(tokens: str, marks: Iterable[str]) -> bool:
    return all(f'"{mark}"' in tokens for mark in marks)


def parameters_of(folder: Path, names: Iterable[str], config: dict[str, Any]) -> int | None:
    """How many numbers its weights hold, None if the files do not say it. names: of the weight files."""
    stated = _object(folder / "model.safetensors.index.json").get("metadata")
    total = stated.get("total_parameters") if isinstance(stated, dict) else None
    if _is_count(total):
        return total
    quantization = config.get("quantization")
    if not isinstance(quantization, dict) and config.get("quantization_config") is not None:
        return None  # in a form that is not mlx's
    shapes = {name: shape for file in names for name, shape in tensors(folder / file).items()}
    total = sum(_size(name, shapes, quantization or {}) for name in shapes)
    return total if _is_count(total) else None


def _is_count(number: Any) -> TypeGuard[int]:
    return type(number) is int and 0 < number < 2**63


def _size(name: str, shapes: dict[str, list[int]], quantization: dict[str, Any]) -> int:
    """Of a quantised tensor the numbers that it stands for: each of its scales is that of a group."""
    layer, _, part = name.rpartition(".")
    scales = shapes.get(f"{layer}.scales")
    if scales is None:
        return prod(shapes[name])
    own = quantization.get(layer)
    group = own.get("group_size") if isinstance(own, dict) else quantization.get("group_size")
    if part == "weight":
        return prod(scales) * (group if type(group) is int else 64)
    return 0 if part in ("scales", "biases") else prod(shapes[name])


def _template(folder: Path, given: Any) -> str:
    """The text of its chat template, or of all that it has; empty without one. given: in the settings."""
    if isinstance(given, str):
        return given if "{" in given else _text(Path(given))
    if text := _text(folder / "chat_template.jinja"):
        return text
    files = (folder / "tokenizer_config.json", folder / "chat_template.json")
    found = [_object(file).get("chat_template") for file in files]
    named = [entry for templates in found if isinstance(templates, list) for entry in templates]
    found += [entry.get("template") for entry in named if isinstance(entry, dict)]
    return "\n".join(text for text in found if isinstance(text, str))


def _text(path: Path, limit: int = _MAX_BYTES) -> str:
    """The beginning of a file; empty if it cannot be read."""
    try:
        with path.expanduser().open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except (OSError, ValueError, RuntimeError):  # RuntimeError: `~name` without such a user
        return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
