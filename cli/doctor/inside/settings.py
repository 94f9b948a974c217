"""`python -m cli.doctor.inside.settings [WORKING_SET]`: what a broker started here would find, as one line of JSON.

WORKING_SET: the bytes that Metal recommends. Only reads: takes no lock, makes no folder, loads no model.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

from broker.models.catalog import Catalog
from broker.models.entry import CatalogError
from broker.policy.budget import GIB, Hardware, budget_of
from broker.processes.memory import total_bytes
from broker.settings import BrokerSettings, load_settings
from broker.wire.paths import GATEWAY_SOCKET, MAX_SOCKET_PATH_BYTES, WORKER_SOCKET
from broker.wire.settings_file import SettingsError
from broker.wire.version import VERSION


def found(settings: BrokerSettings, working_set: int | None) -> dict[str, object]:
    """As ServiceFacts, with the paths of the sockets."""
    has_metal = sys.platform == "darwin"
    machine = Hardware(total_bytes(), int(settings.max_memory_gb * GIB), has_metal, settings.wired_memory)
    budget = budget_of(machine, working_set)
    overrides = {name: model.override() for name, model in settings.models.items()}
    models, broken = _models(Catalog(settings.models_dir, settings.hub_dir, overrides))
    names = (GATEWAY_SOCKET, WORKER_SOCKET)
    return {
        "service": {
            "budget": budget.size_bytes,
            "budget_origin": str(budget.origin),
            "wired_memory": settings.wired_memory,
            "prefill_in_turns": settings.prefill_in_turns,
            "blas_library": settings.blas_library,
            "runtime_dir": str(settings.runtime_dir),
            "folders": [folder_facts(folder) for folder in (settings.models_dir, settings.hub_dir)],
            "models": models,
            "broken": broken,
        },
        "path_bytes": max(len(os.fsencode(settings.runtime_dir / name)) for name in names),
        "max_path_bytes": MAX_SOCKET_PATH_BYTES,
    }


def _models(catalog: Catalog) -> tuple[int, list[tuple[str, str]]]:
    """How many can be used, and those that cannot, with the reason."""
    usable, broken = 0, []
    for name in sorted(catalog.names()):
        try:
            catalog.find(name)
            usable += 1
        except CatalogError as error:
            broken.append((name, str(error)))
    return usable, broken


def folder_facts(folder: Path) -> dict[str, object]:
    """As FolderFacts. What is not there yet will be made on the disk of the nearest folder above it."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        free: int | None = shutil.disk_usage(nearest).free
    except OSError:
        free = None
    return {"path": str(folder), "exists": folder.is_dir(), "free": free, "ignores_case": ignores_case(nearest)}


def ignores_case(folder: Path) -> bool | None:
    """Whether the file system finds a file by its name in the other case; None if there is no name to try."""
    with contextlib.suppress(OSError):
        known = next((path for path in sorted(folder.iterdir()) if path.name.swapcase() != path.name), folder)
        other = known.with_name(known.name.swapcase()) if known.name else known
        if other == known:
            return None
        with contextlib.suppress(FileNotFoundError):
            return other.samefile(known)
        return False
    return None


if __name__ == "__main__":
    logging.disable()  # the catalog logs what is told here
    try:
        answer = found(load_settings(), int(sys.argv[1]) if len(sys.argv) > 1 else None)
    except SettingsError as error:
        answer = {"error": str(error)}
    answer["version"] = VERSION
    sys.stdout.write(json.dumps(answer) + "\n")
