import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gateway.http.refusals import Refusals


@pytest.fixture(scope="session", autouse=True)
def _state_home() -> Iterator[None]:
    """Gateways store uploads there, not at the home of who runs the tests. Short, as it holds sockets on macOS."""
    before, directory = os.environ.get("XDG_STATE_HOME"), tempfile.mkdtemp(prefix="mlxb-")
    os.environ["XDG_STATE_HOME"] = directory
    yield
    os.environ.pop("XDG_STATE_HOME")
    if before is not None:
        os.environ["XDG_STATE_HOME"] = before
    shutil.rmtree(directory)


@pytest.fixture
def quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens are refused at once, for tests that send many."""
    monkeypatch.setattr("gateway.app.Refusals", partial(Refusals, 0.0))


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Short, as socket paths must be."""
    directory = Path(tempfile.mkdtemp(prefix="mlxb-"))
    yield directory
    shutil.rmtree(directory)
