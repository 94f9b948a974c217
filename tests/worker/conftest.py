import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model
from tests.worker.harness import WorkerHarness


@pytest.fixture
def harness() -> Iterator[WorkerHarness]:
    # Not tmp_path: the path of an ipc socket is limited to about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        harness = WorkerHarness(Path(folder))
        try:
            yield harness
        finally:
            harness.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
