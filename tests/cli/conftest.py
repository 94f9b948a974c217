import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.played import PlayedService, played_service
from tests.cli.running import Command


@pytest.fixture(scope="session")
def _played() -> Iterator[PlayedService]:
    directory = Path(tempfile.mkdtemp(prefix="mlxb-"))  # short, as socket paths must be
    with played_service(directory) as service:
        yield service
    shutil.rmtree(directory)


@pytest.fixture
def service(_played: PlayedService) -> PlayedService:
    """As it is at its start: one for all tests, as they leave it running."""
    _played.reset()
    return _played


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`cli(service, "ps", "--json")`: the command in this process, without a terminal."""
    return Command(monkeypatch, capsys)
