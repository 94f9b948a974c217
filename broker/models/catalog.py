"""Which models this machine has: looks a model up by its name, and keeps what was read until its files change.

Asked for every request to a model that is not running, so it reads a folder again only where that is needed. Never
imports mlx, never loads anything. Whatever a folder holds is an answer or a CatalogError, and never ends the broker.
"""

import logging
import os
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from broker.models.audio import AUDIO
from broker.models.capabilities import capabilities_of, tasks_of
from broker.models.entry import BrokenEntry, CatalogEntry, CatalogError, ModelOverride
from broker.models.facts import has_parts, read_entry
from broker.models.places import FileSystem, Places
from broker.models.weights import part_files, weight_files
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code
from broker.wire.kinds import TEXT
from broker.wire.model_names import folded

logger = logging.getLogger(__name__)

# (name, bytes, last change) of each.
_Files = tuple[tuple[str, int, int], ...]
# The folder, its inode, the last changes of the folder and of its config.json, and its weight files.
_Signature = tuple[Path, int, int, int, _Files]


class Catalog:
    """Looks a model up whenever it is asked; what was read is kept until the folder, its config.json or its weights
    change."""

    def __init__(
        self,
        models_dir: Path,
        hub_dir: Path,
        overrides: dict[str, ModelOverride],
        file_system: FileSystem | None = None,
    ) -> None:
        self.folders = (models_dir, hub_dir)
        self._places = Places(models_dir, hub_dir, file_system)
        self._overrides = overrides
        # By model: with the weight files in folders within its own.
        self._read: dict[str, tuple[_Signature, CatalogEntry, _Files]] = {}

    def use(self, overrides: dict[str, ModelOverride]) -> None:
        """What the settings say about models from now on."""
        self._overrides = overrides
        self._read.clear()

    def id_of(self, name: str) -> str:
        """The only id of the model that this name leads to; the name itself if there is none."""
        override = self._overrides.get(name)
        return name if override is not None and override.engine is not None else self._places.id_of(name)

    def find(self, model_id: str) -> ModelSpec:
        """The spec of this model. Raises CatalogError that names what is missing."""
        return self._entry(model_id).spec

    def entries(self) -> list[CatalogEntry]:
        """Every usable model of this machine, by name."""
        entries = []
        for model_id in sorted(self.names()):
            with suppress(CatalogError):
                if self._is_part(model_id):
                    continue
                entries.append(self._entry(model_id))
        return entries

    def broken(self) -> list[BrokenEntry]:
        """What looks like a model and is left out of `entries`, by name, each with the reason."""
        reasons: dict[str, str] = {}
        for model_id in set(self._places.names()):
            if not model_id.isprintable():
                reasons[model_id] = "its name is not printable text"
                continue
            try:
                self._entry(model_id)
            except CatalogError as error:
                if not self._is_part(model_id):
                    reasons[model_id] = str(error)
        for model_id in self._places.without_config():
            reasons.setdefault(model_id, f"{self._places.folder_of(model_id)} has no config.json")
        texts = [(model_id, str(self._places.folder_of(model_id)), reason) for model_id, reason in reasons.items()]
        return sorted((BrokenEntry(*map(_shown, text)) for text in texts), key=lambda entry: entry.model_id)

    def names(self) -> set[str]:
        """What may be a model of this machine."""
        without_files = (name for name, override in self._overrides.items() if override.engine is not None)
        # No request has a name that is not printable, such as one that is not UTF-8.
        return {name for name in (*without_files, *self._places.names()) if name.isprintable()}

    def users_of(self, model_id: str) -> list[str]:
        """The models that are loaded from the files under this name: its own, links to it, those with it as draft, or
        with an adapter in its folder."""
        try:
            folders = [place.folder for place in self._places.kept(model_id)]
        except CatalogError:
            return []
        # Of a link only the link would go.
        real = [folder.resolve() for folder in folders if not folder.is_symlink()]
        users = []
        for spec in (entry.spec for entry in self.entries() if entry.spec.engine is None):
            named = (spec.path, spec.options.get("draft_model"), spec.options.get("adapter_path"))
            paths = [Path(os.path.expanduser(path)) for path in named if isinstance(path, str)]  # noqa: PTH111 # Path's own raises for an unknown user
            if any(path in folders or any(path.resolve().is_relative_to(one) for one in real) for path in paths):
                users.append(spec.model_id)
        return users

    def _entry(self, model_id: str) -> CatalogEntry:
        try:
            return self._look(model_id)
        except CatalogError:
            raise
        except Exception as error:  # it must not end the broker, and with it every model
            logger.exception("cannot read the files of %r", model_id)
            message = f"{model_id}: its files cannot be read: {type(error).__name__}: {str(error)!a}"
            raise CatalogError(Code.LOAD_FAILED, message) from error

    def _look(self, model_id: str) -> CatalogEntry:
        override = self._override(model_id)
        if override.engine is not None:
            spec = override.spec(model_id, override.model_type or TEXT, ".", 0)
            return CatalogEntry(spec, None, 0, 0.0, tuple(capabilities_of(tasks_of(spec.model_type, {}))))
        place = self._places.find(model_id)
        folder = place.folder
        try:
            config_stat, folder_stat = (folder / "config.json").stat(), folder.stat()
        except OSError as error:
            message = f"{model_id}: {error.strerror}: {error.filename}"
            raise CatalogError(Code.MODEL_NOT_FOUND, message, fetchable=place.fetchable) from error
        try:
            weights = weight_files(folder)
        except OSError as error:
            raise CatalogError(Code.LOAD_FAILED, f"{error.filename}: {error.strerror}") from error
        signature = (folder, folder_stat.st_ino, folder_stat.st_mtime_ns, config_stat.st_mtime_ns, weights)
        known = self._read.get(model_id)
        if known is not None and known[0] == signature and known[2] == _parts(known[1], folder):
            return self._with_draft(known[1], override)
        # Checked only here because it is slow. A link that leads elsewhere by now has another inode.
        if not folder.resolve().is_relative_to(place.root.resolve()):
            raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id} is a link that leaves {place.root}")
        sizes = {name: size for name, size, _ in weights}
        entry = read_entry(model_id, folder, sizes, override, config_stat.st_mtime, fetchable=place.fetchable)
        parts = _parts(entry, folder)
        files = tuple(sorted((*weights, *parts)))
        entry = replace(entry, spec=replace(entry.spec, fingerprint=_fingerprint(folder, files)))
        self._read[model_id] = (signature, entry, parts)
        return self._with_draft(entry, override)

    def _is_part(self, model_id: str) -> bool:
        """Whether this is a part of the model in whose folder it lies."""
        with suppress(Exception):  # what is wrong with the other one is told under its own name
            parent = self._places.parent_of(model_id)
            return parent is not None and has_parts(parent)
        return False

    def _override(self, model_id: str) -> ModelOverride:
        """What the settings say about this model, by whichever name."""
        override = self._overrides.get(model_id)
        if override is None:
            alike = (name for name in self._overrides if folded(name) == folded(model_id))
            name = next((name for name in alike if self.id_of(name) == model_id), None)
            override = ModelOverride() if name is None else self._overrides[name]
        return override

    def _with_draft(self, entry: CatalogEntry, override: ModelOverride) -> CatalogEntry:
        """The entry with the folder of its draft model, which the settings name, and with the weights of both."""
        draft, spec = override.options.get("draft_model"), entry.spec
        if not isinstance(draft, str):
            return entry
        try:
            is_path = draft.startswith(("/", "~", "."))
            folder = Path(draft).expanduser().absolute() if is_path else self._places.find(draft).folder
            files = [(path.name, path.stat()) for path in sorted(folder.glob("model*.safetensors"))]
        except (CatalogError, OSError, RuntimeError) as error:  # RuntimeError: `~name` without such a user
            raise CatalogError(Code.LOAD_FAILED, f"{spec.model_id}: draft_model: {error}") from error
        options = {**spec.options, "draft_model": str(folder)}
        weights = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
        weight_bytes = spec.weight_bytes + sum(size for _, size, _ in weights)
        fingerprint = spec.fingerprint and _fingerprint(folder, weights, spec.fingerprint)
        both = replace(spec, options=options, weight_bytes=weight_bytes, fingerprint=fingerprint)
        return replace(entry, spec=both)


def _parts(entry: CatalogEntry, folder: Path) -> _Files:
    """The weight files in folders within its own, which only audio models have."""
    with suppress(OSError):
        return part_files(folder) if entry.spec.model_type == AUDIO else ()
    return ()


def _shown(text: str) -> str:
    """Text that any terminal and any page can show: names of files may hold anything."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _fingerprint(folder: Path, weights: tuple[tuple[str, int, int], ...], other: str = "") -> str:
    """Another one as soon as a weight file changes. other: that of a model which is loaded with it."""
    return sha256(repr((str(folder), weights, other)).encode()).hexdigest()[:32]
