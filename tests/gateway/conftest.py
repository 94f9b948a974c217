import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gateway.http.refusals import Refusals


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
