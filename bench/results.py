"""Saves results in bench/results/<name>.json, with a general description of the machine."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from bench import calm
from tests.service import ROOT

FOLDER = ROOT / "bench" / "results"
_PACKAGES = ("mlx", "mlx-lm", "mlx-vlm", "pyzmq", "uvicorn", "starlette")


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write one benchmark's figures and return the file."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_bytes(
        orjson.dumps({**_machine(), "figures": figures}, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )
    return path


def read(name: str) -> dict[str, Any]:
    """The figures that `save` wrote. Raises FileNotFoundError before the first run."""
    content: dict[str, Any] = orjson.loads((FOLDER / f"{name}.json").read_bytes())
    return content


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "began_busy": calm.began_busy,
        "packages": {name: version(name) for name in _PACKAGES},
    }
