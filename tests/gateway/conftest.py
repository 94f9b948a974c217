import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.http.refusals import Refusals


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that the gateway runs on."""
    return "asyncio", {"use_uvloop": True}


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
