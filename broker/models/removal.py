"""Deletes the files of a model: its folder in the models directory, its repository in the Hugging Face cache.

Follows no link: of a name that is a link the link goes, and what lies outside of both places stays. A folder is renamed
first, so that the model is gone for everybody at once; a thread deletes it, because that can take seconds for files
that are in the page cache. What a broker leaves when it ends meanwhile, the next one deletes.
"""

import fcntl
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Thread
from uuid import uuid4

from broker.models.entry import CatalogError
from broker.models.places import Place, Places
from broker.wire.failure import Code

# Hidden from lookups: no model has a name that begins with a dot.
_ASIDE = ".mlx-broker-removed-"

logger = logging.getLogger(__name__)


def remove_model(places: Places, model_id: str) -> None:
    """Delete all files of this model. Raises CatalogError; checks come first, and a failed one deletes nothing."""
    kept = places.kept(model_id)
    for place in kept:
        _check(place, model_id)
    for place in kept:
        try:
            _remove(place)
        except OSError as error:
            message = f"{place.folder} cannot be removed: {error.strerror}"
            raise CatalogError(Code.INTERNAL_ERROR, message) from error


def delete_leftovers(*roots: Path) -> None:
    """What a broker before this one has not deleted any more, in these models directories and caches."""

    def delete() -> None:
        with suppress(OSError):
            for root in roots:
                for pattern in (f"{_ASIDE}*", f"[!.]*/{_ASIDE}*"):
                    for aside in root.glob(pattern):
                        _delete(aside, root)

    Thread(target=delete, name="leftovers", daemon=True).start()


def _check(place: Place, model_id: str) -> None:
    folder, root = place.folder, place.root
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id} is a link that leaves {root}")
    if not place.fetchable and "/" in model_id and (folder.parent / "modules.json").exists():
        raise CatalogError(Code.MODEL_NOT_FOUND, f"{model_id} is a part of the model {folder.parent.name}")
    if not place.fetchable and (others := _models_in(folder, model_id)):
        raise CatalogError(Code.MODEL_IN_USE, f"other models lie in {folder}, such as {others[0]}")
    if place.fetchable and _is_locked(_locks(place)):
        raise CatalogError(Code.MODEL_IN_USE, f"another program is downloading {model_id}")


def _models_in(folder: Path, model_id: str) -> list[str]:
    """The other models whose files would go too: `name` may hold `name/other`."""
    if "/" in model_id or folder.is_symlink() or (folder / "modules.json").exists():
        return []  # the parts of a sentence transformer look like models
    return sorted(f"{model_id}/{config.parent.name}" for config in folder.glob("[!.]*/config.json"))


def _locks(place: Place) -> Path:
    """Where downloads into this repository have their locks."""
    return place.root / ".locks" / place.folder.name


def _is_locked(locks: Path) -> bool:
    """Whether a program has locked one of these files, as all do that use huggingface_hub."""
    for path in locks.glob("*.lock"):
        with suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def _remove(place: Place) -> None:
    folder = place.folder
    if folder.is_symlink():
        folder.unlink()
        return
    aside = folder.rename(folder.with_name(f"{_ASIDE}{uuid4().hex}"))
    if place.fetchable:
        shutil.rmtree(_locks(place), ignore_errors=True)
    Thread(target=_delete, args=(aside, place.root), name="removal", daemon=True).start()


def _delete(aside: Path, root: Path) -> None:
    try:
        shutil.rmtree(aside)
    except OSError as error:
        logger.error("%s cannot be deleted: %s", error.filename, error.strerror)
    if aside.parent != root:
        with suppress(OSError):  # other models of this organisation
            aside.parent.rmdir()
