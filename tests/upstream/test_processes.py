"""Contracts of honcho and of MLX's errors: see docs/upstream.md."""

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from worker.process import device_errors

_SAYS = """
import os, sys
from broker.wire.parents import system_parent_of
name, helper = os.environ["HONCHO_PROCESS_NAME"], os.getppid()
with open(sys.argv[1], "w") as file:
    print((name, helper, system_parent_of()(helper)), file=file)
"""


def test_honcho_processes(tmp_path: Path) -> None:
    """A process that honcho starts knows its name there, and is the child of a helper that is the child of honcho."""
    (tmp_path / "says.py").write_text(_SAYS)
    (tmp_path / "Procfile").write_text(f"one: exec {sys.executable} says.py said\n")
    honcho = subprocess.Popen(
        [sys.executable, "-m", "honcho", "--env", os.devnull, "start"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
    )
    assert honcho.wait(30) == 0
    name, helper, parent = ast.literal_eval((tmp_path / "said").read_text())
    assert (name, parent) == ("one.1", honcho.pid)
    assert helper != honcho.pid


def test_mlx_device_errors() -> None:
    """No GPU is here to make errors: somebody must have read the source of the version that is installed."""
    source = Path(device_errors.__file__).read_text()
    assert f"MLX {version('mlx')}" in source
