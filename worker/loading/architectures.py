"""`python -m worker.loading.architectures`: prints which architectures the installed mlx-lm, mlx-vlm and mlx-audio can
run, as the JSON of broker/models/architectures.json. Part of `make architectures`; no serving process runs it.

It asks the libraries by their own functions and imports every model that they have. A module may end or crash its
process (mlx-lm's `olmo` calls `sys.exit`), so a child process does the importing: when it dies, the question that it
was at is answered with no, and another child goes on with the rest. mlx-audio has a list: its modules are not imported,
because some import packages that are not installed.
"""

import dis
import json
import logging
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from inspect import getmembers, isfunction
from typing import Any

import mlx_lm.models
import mlx_lm.utils
import mlx_vlm.models
import mlx_vlm.utils
from mlx_audio.registry import SUPPORTED_MODEL_TYPES, classify_model
from mlx_lm.utils import _get_classes
from mlx_vlm.embedding_loader import EMBEDDING_MODEL_REMAPPING
from mlx_vlm.models.pooling import EmbeddingOutput

# Of mlx-audio's families that hear: they make vectors or scores, align a text that is given, or are shared code.
_NO_TRANSCRIBERS = frozenset({"lasr_ctc", "nemo", "qwen3_forced_aligner", "wav2vec"})

_CHILD = (sys.executable, "-m", "worker.loading.architectures", "--child")


def survey(child: Iterable[str], questions: list[str]) -> set[str]:
    """The questions that are answered with yes. child: a command that reads questions, one a line, and prints
    `yes QUESTION` or `no QUESTION` for each in turn; it may die at any of them."""
    said_yes: set[str] = set()
    left = questions
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    while left:
        result = subprocess.run(
            [*child], input="\n".join(left), stdout=subprocess.PIPE, env=offline, text=True, check=False
        )
        answers = [line.split(" ", 1) for line in result.stdout.splitlines()]
        said_yes |= {question for answer, question in answers if answer == "yes"}
        left = left[len(answers) + 1 :]
    return said_yes


def table() -> dict[str, Any]:
    """What broker/models/architectures.py reads. Names are those that config.json has as `model_type`; mlx-vlm's are
    lower case, because it does not tell cases apart."""
    names = _names()
    known = survey(_CHILD, [f"{kind} {name}" for kind in names for name in names[kind]])
    kinds = {kind: sorted(name for name in names[kind] if f"{kind} {name}" in known) for kind in names}
    versions = {name: version(name) for name in ("mlx-lm", "mlx-vlm", "mlx-audio")}
    return {"versions": versions, "model_types": kinds, "audio_tasks": audio_tasks()}


def audio_tasks() -> dict[str, list[str]]:
    """Task -> the names of mlx-audio for families that do it."""
    kinds = {"transcribe": "stt", "speak": "tts"}
    known = {
        task: {n for n in SUPPORTED_MODEL_TYPES[kind] if classify_model(n) == kind} for task, kind in kinds.items()
    }
    return {task: sorted(names - _NO_TRANSCRIBERS) for task, names in known.items()}


def _names() -> dict[str, set[str]]:
    """Every name that a library may know, by kind of model. `model_type/architecture` where both decide."""
    text = {*_modules(mlx_lm.models), *mlx_lm.utils.MODEL_REMAPPING}
    text |= set(map("/".join, mlx_lm.utils.MODEL_ARCHITECTURE_REMAPPING))
    vision = {name.lower() for name in (*_modules(mlx_vlm.models), *mlx_vlm.utils.MODEL_REMAPPING)}
    return {"text-gen": text, "vision": vision, "embeddings": vision | set(EMBEDDING_MODEL_REMAPPING)}


def _modules(package: Any) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def _writes_text(name: str) -> bool:
    model_type, _, architecture = name.partition("/")
    model, arguments = _get_classes({"model_type": model_type, "architectures": [architecture]})
    return isinstance(model, type) and isinstance(arguments, type)


def _sees(name: str) -> bool:
    """Whether this model has a part that writes text; others of mlx-vlm make pictures, boxes or vectors."""
    model = _vision_module(name).Model
    return any(
        hasattr(base, "language_model") or any(_sets_language_model(f) for _, f in getmembers(base, isfunction))
        for base in model.__mro__
        if base.__module__.startswith("mlx_vlm.models.")
    )


def _sets_language_model(function: Callable[..., object]) -> bool:
    return any(
        step.opname == "STORE_ATTR" and step.argval == "language_model" for step in dis.get_instructions(function)
    )


def _makes_vectors(name: str) -> bool:
    """Whether this model makes vectors of texts, or scores of pairs of texts."""
    module = _vision_module(EMBEDDING_MODEL_REMAPPING.get(name, name))
    if hasattr(module, "SequenceClassificationModel"):
        return True
    # The file that runs the model, which may be the one of a family that it inherits from.
    return any(value is EmbeddingOutput for value in module.Model.__call__.__globals__.values())


def _vision_module(name: str) -> Any:
    return mlx_vlm.utils.get_model_and_args({"model_type": name})[0]


_QUESTIONS: dict[str, Callable[[str], bool]] = {"text-gen": _writes_text, "vision": _sees, "embeddings": _makes_vectors}


def _answer_all() -> None:
    """What a child does. Modules print as they like, which must not get among the answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        kind, _, name = line.rstrip("\n").partition(" ")
        try:
            known = _QUESTIONS[kind](name)
        except (Exception, SystemExit):  # noqa: BLE001 # whatever a module raises, the library cannot run it
            known = False
        answers.write(f"{'yes' if known else 'no'} {kind} {name}\n")


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # mlx-vlm logs every name that it does not know
    if sys.argv[1:] == ["--child"]:
        _answer_all()
    else:
        json.dump(table(), sys.stdout, indent=1)
        sys.stdout.write("\n")
