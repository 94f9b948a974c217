"""What the tests of the vision engine share."""

from pathlib import Path

import pytest

from tests.tiny_vision import make_tiny_vision
from tests.worker.vision.vision_runs import load
from worker.vision.engine import VisionEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision(tmp_path_factory.mktemp("vision") / "tiny")


@pytest.fixture(scope="module")
def engine(folder: Path) -> VisionEngine:
    return load(folder)
