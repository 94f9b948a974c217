"""The version of this project: that of the installed package, else of the checkout. Standard library only."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

NAME = "mlx-broker"
_PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@cache
def project_version() -> str:
    """Such as `1.2.0`; `unknown` if neither says it. What stands beside this file counts first."""
    try:
        project = tomllib.loads(_PYPROJECT.read_text())["project"]
        if project["name"] == NAME:
            return str(project["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return version_of(NAME)
    except PackageNotFoundError:
        return "unknown"
