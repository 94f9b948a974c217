"""The two places where models are found, and the names that they have there. Never opens a model's own files.

A model id is a name, never a path: `name` or `org/name` is a folder under the models directory, `org/name` also a
repository in the Hugging Face cache. No name leads out of its place; the catalog checks where links lead.

A file system may find a folder by other spellings too, as that of macOS does. The id is the one on the disk.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from broker.models.entry import CatalogError
from broker.wire.failure import Code
from broker.wire.model_names import folded, is_model_name

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)

# Weights of any kind, also those that only other programs read.
_WEIGHTS = ("*.safetensors", "*.gguf", "*.npz", "*.bin", "*.pt", "*.pth")

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Place:
    """Where a model was found. root: the models directory or the Hugging Face cache; folder: may still be a link;
    fetchable: whether a download could complete it."""

    root: Path
    folder: Path
    fetchable: bool


def is_same_folder(one: Path, other: Path) -> bool:
    """Whether both names lead to one folder."""
    with suppress(OSError):
        return one.samefile(other)
    return False


@dataclass(slots=True, frozen=True)
class FileSystem:
    """What only the file system knows. names: in a folder, as they were written; raises OSError."""

    names: Callable[[Path], Iterable[str]] = os.listdir
    is_same: Callable[[Path, Path], bool] = is_same_folder

    def spelled(self, parent: Path, name: str) -> str:
        """The name on the disk of what `name` leads to in this folder; the same name if there is nothing. Raises
        OSError."""
        names = list(self.names(parent))
        if name in names:
            return name
        wanted = folded(name)
        alike = (other for other in sorted(names) if folded(other) == wanted)
        return next((other for other in alike if self.is_same(parent / name, parent / other)), name)


class Places:
    """The models directory comes first: the Hugging Face cache may be on a mount that hangs."""

    def __init__(self, models_dir: Path, hub_dir: Path, file_system: FileSystem | None = None) -> None:
        self._models_dir = models_dir
        self._hub_dir = hub_dir
        self._files = file_system or FileSystem()

    def id_of(self, name: str) -> str:
        """The id of the model that this name leads to; the name itself if there is none."""
        if not is_model_name(name):
            return name
        for spell in (self._id_in_models, self._id_in_hub):
            with suppress(OSError, ValueError):  # ValueError: not a name for any file
                if (found := spell(name)) is not None:
                    return found
        return name

    def _id_in_models(self, name: str) -> str | None:
        parent, spelled = self._models_dir, list[str]()
        for part in name.split("/"):
            spelled.append(self._files.spelled(parent, part))
            parent /= spelled[-1]
        return "/".join(spelled) if parent.is_dir() else None

    def _id_in_hub(self, name: str) -> str | None:
        repository = self._files.spelled(self._hub_dir, "--".join(("models", *name.split("/"))))
        return _id_of_repository(repository) if (self._hub_dir / repository).is_dir() else None

    def find(self, model_id: str) -> Place:
        """The place of this model. Raises CatalogError."""
        if not is_model_name(model_id):
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id!r} is not a model name: one is `name` or `org/name`")
        is_repository = _is_repository(model_id)
        problem: OSError | None = None
        for root, find in ((self._models_dir, self._models_dir.joinpath), (self._hub_dir, self._snapshot)):
            try:
                folder = find(*model_id.split("/"))
                if folder is not None and folder.is_dir():
                    return Place(root, folder, fetchable=is_repository and root == self._hub_dir)
            except OSError as error:  # a name too long for a file, or a disk that is gone: try the other place
                problem = problem or error
        if problem is not None:
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id}: {problem.strerror}") from problem
        raise _missing(f"no model named {model_id!r} in {self._models_dir} or the Hugging Face cache", model_id)

    def kept(self, model_id: str) -> list[Place]:
        """What lies on the disk under this name, complete or not: a folder of the models directory, if it is one of a
        model, and a whole repository of the Hugging Face cache. Raises CatalogError."""
        if not is_model_name(model_id):
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id!r} is not a model name: one is `name` or `org/name`")
        found = []
        parts = model_id.split("/")
        with suppress(OSError):
            folder = self._models_dir.joinpath(*parts)
            if (folder / "config.json").is_file():
                found.append(Place(self._models_dir, folder, fetchable=False))
        with suppress(OSError):
            repository = self._hub_dir / "--".join(("models", *parts))
            if _is_repository(model_id) and repository.is_dir():
                found.append(Place(self._hub_dir, repository, fetchable=True))
        if not found:
            why = f"no files of a model named {model_id!r} in {self._models_dir} or the Hugging Face cache"
            raise CatalogError(Code.MODEL_NOT_FOUND, why)
        return found

    def names(self) -> Iterator[str]:
        """The name of every folder that may be a model, in any order."""
        for folder in _matches(self._models_dir, "[!.]*"):
            if self._is_loop(folder):
                continue
            for pattern in ("config.json", "[!.]*/config.json"):
                for config in _matches(folder, pattern):
                    yield config.parent.relative_to(self._models_dir).as_posix()
        for repository in _matches(self._hub_dir, "models--*"):
            yield _id_of_repository(repository.name)

    def parent_of(self, name: str) -> Path | None:
        """The folder of the model within which this one lies, None if it lies within none."""
        parent, _, part = name.rpartition("/")
        folder = self._models_dir / parent
        return folder if parent and (folder / part).is_dir() and (folder / "config.json").exists() else None

    def without_config(self) -> Iterator[str]:
        """The name of every folder in the models directory that has weights and no config.json."""
        for folder in _matches(self._models_dir, "[!.]*"):
            if not self._is_loop(folder) and not (folder / "config.json").exists():
                for one in (folder, *_matches(folder, "[!.]*/")):
                    if not (one / "config.json").exists() and any(
                        True for pattern in _WEIGHTS for _ in _matches(one, pattern)
                    ):
                        yield one.relative_to(self._models_dir).as_posix()

    def folder_of(self, name: str) -> Path:
        """Where what goes by this name lies, whether it can be used or not."""
        with suppress(OSError, ValueError):
            folder = self._models_dir / name
            if folder.is_dir():
                return folder
        return self._hub_dir / "--".join(("models", *name.split("/")))

    def _is_loop(self, folder: Path) -> bool:
        """Whether this is a link to the models directory itself or above it, where all models would be once more."""
        try:
            return folder.is_symlink() and self._models_dir.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            return True

    def _snapshot(self, *parts: str) -> Path | None:
        """The folder of the revision that `main` points to; without `main`, as after the download of one revision, the
        only folder. Raises CatalogError where neither is clear."""
        model_id, repository = "/".join(parts), self._hub_dir / "--".join(("models", *parts))
        snapshots = repository / "snapshots"
        try:
            revision = (repository / "refs" / "main").read_text().strip()
        except FileNotFoundError:
            found = [folder for folder in _matches(snapshots, "*") if folder.is_dir()]
            if len(found) > 1:
                why = f"{model_id}: {snapshots} has {len(found)} snapshots, and no refs/main says which one to use"
                raise _missing(why, model_id) from None
            return found[0] if found else None
        except (OSError, UnicodeDecodeError):
            return None
        if not (snapshots / revision).is_dir():
            raise _missing(f"{model_id}: refs/main names the snapshot {revision!r:.80}, not in {snapshots}", model_id)
        return snapshots / revision


def _missing(why: str, model_id: str) -> CatalogError:
    is_repository = _is_repository(model_id)
    if is_repository:
        why += "; an administrator's load fetches it if the Hugging Face hub has it"
    return CatalogError(Code.MODEL_NOT_FOUND, why, fetchable=is_repository)


def _id_of_repository(folder: str) -> str:
    """`models--org--name` in the cache is `org/name`."""
    return "/".join(folder.split("--")[1:])


def _is_repository(model_id: str) -> bool:
    """Whether this can be the name of a repository on the Hugging Face hub."""
    return _REPOSITORY.fullmatch(model_id) is not None and "--" not in model_id and ".." not in model_id


def _matches(directory: Path, pattern: str) -> Iterator[Path]:
    """The paths that match, as far as they can be read: a disk that is gone must not hide the other models."""
    try:
        yield from directory.glob(pattern)
    except OSError as error:
        logger.warning("cannot look for models in %s: %s", directory, error.strerror)
