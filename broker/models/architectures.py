"""Which architectures the worker's libraries can run: asked of their files, as they are installed, so that a model of
another one is refused before a process starts. Never imports them.
"""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# This module of mlx-lm ends the process, because it wants a package that has to do with torch. mlx-vlm's does not.
_EXITS = "olmo"
# How a module of mlx-vlm makes its model of another family's.
_KIND = re.compile(r"^(?:class Model\((?!nn\.Module)|from \.\.\S+ import Model$)", re.MULTILINE)
_SIBLING = re.compile(r"^from \.\.(\w+)[\w.]* import", re.MULTILINE)

# What a module of mlx-vlm contains that makes vectors or scores of texts.
_ENCODERS = ("EmbeddingOutput", "SequenceClassificationModel")


def unknown_architecture(config: dict[str, Any], model_type: str) -> str | None:
    """The architecture that config.json names, if a model of this type (text-gen, vision, embeddings) cannot have it;
    None if it can, or if there is no telling."""
    name = config.get("model_type")
    if not isinstance(name, str):
        return None  # the worker says so better
    match model_type:
        case "text-gen":
            library, known = _library("mlx_lm"), _is_generator
        case "vision":
            library, known = _library("mlx_vlm"), _is_vision_model
        case "embeddings":
            library, known = _library("mlx_vlm"), _is_encoder
        case _:
            return None
    architectures = config.get("architectures")
    names = tuple(filter(_is_text, architectures)) if isinstance(architectures, list) else ()
    return name if library is not None and not known(library, name, names) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


@cache
def _is_generator(library: Path, name: str, architectures: tuple[str, ...]) -> bool:
    by_architecture = _table(library / "utils.py", "MODEL_ARCHITECTURE_REMAPPING")
    if any((name, architecture) in by_architecture for architecture in architectures):
        return True
    module = _table(library / "utils.py", "MODEL_REMAPPING").get(name, name)
    return module != _EXITS and _module(library / "models", module) is not None


@cache
def _is_vision_model(library: Path, name: str, _architectures: tuple[str, ...]) -> bool:
    module = _table(library / "utils.py", "MODEL_REMAPPING").get(name.lower(), name.lower())
    folder = _module(library / "models", module)
    # Beside the folders of models lie files of what they share.
    return folder is not None and (folder / "__init__.py").exists() and _writes(folder)


@cache
def _writes(folder: Path) -> bool:
    """Whether a model of mlx-vlm has a part that writes text; others make pictures, boxes or vectors."""
    sources = [source.read_text() for source in folder.glob("*.py")]
    if any("language_model" in source for source in sources):
        return True
    others = [other for source in sources if _KIND.search(source) for other in _SIBLING.findall(source)]
    return any(_writes(folder.parent / other) for other in others if other != folder.name)


@cache
def _is_encoder(library: Path, name: str, _architectures: tuple[str, ...]) -> bool:
    # As mlx-vlm does it: its table for embeddings first, then the one for all models.
    module = _table(library / "embedding_loader.py", "EMBEDDING_MODEL_REMAPPING").get(name.lower(), name.lower())
    module = _table(library / "utils.py", "MODEL_REMAPPING").get(module, module)
    folder = _module(library / "models", module)
    if folder is None or not folder.is_dir():
        return False
    sources = (source.read_text() for source in folder.glob("*.py"))
    return any(name in source for source in sources for name in _ENCODERS)


def _module(package: Path, name: str) -> Path | None:
    # A model's file says what `name` is: looked up, and never made a path of.
    return _modules(package).get(name)


@cache
def _modules(package: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(package.iterdir(), reverse=True)} if package.is_dir() else {}


@cache
def _library(name: str) -> Path | None:
    # For a package without a dot in its name this finds files and runs none of them.
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@cache
def _table(file: Path, name: str) -> dict[Any, str]:
    """The dict that a module of the library assigns to `name`; empty where it has none."""
    for node in ast.parse(file.read_text()).body if file.exists() else ():
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            table: dict[Any, str] = ast.literal_eval(node.value)
            return table
    return {}
