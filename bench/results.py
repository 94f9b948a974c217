"""Saves results in bench/results/<name>.json, with a general description of the machine.

A file keeps figures that a run has not measured anew, with the date of each, so that a short run does not lose the rows
of a long one.
"""

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
    """Write the figures that a benchmark has measured, and return the file."""
    FOLDER.mkdir(exist_ok=True)
    before = read(name)
    dates = dict.fromkeys(figures, today())
    result = {
        **_machine(),
        "dates": before.get("dates", {}) | dates,
        "figures": before.get("figures", {}) | figures,
    }
    path = FOLDER / f"{name}.json"
    # In one step: an interrupted benchmark leaves the old file or the new one.
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    fresh.replace(path)
    return path


def read(name: str) -> dict[str, Any]:
    """What `save` wrote; empty before the first run."""
    try:
        content: dict[str, Any] = orjson.loads((FOLDER / f"{name}.json").read_bytes())
    except FileNotFoundError:
        return {}
    return content


def today() -> str:
    """As results have it."""
    return time.strftime("%Y-%m-%d")


def _machine() -> dict[str, Any]:
    return {
        "date": today(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "began_busy": calm.began_busy,
        "packages": {name: version(name) for name in _PACKAGES},
    }
