"""Empty places for models, and a catalog of both."""

from pathlib import Path

import pytest

from broker.models.catalog import Catalog


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


@pytest.fixture
def catalog(models: Path, hub: Path) -> Catalog:
    return Catalog(models, hub, {})
