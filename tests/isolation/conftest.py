"""Models and a service for the isolation suite. A is the model that dies, B the one that must not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import Service
from tests.tiny_models import make_tiny_model

# Chunks of 32 tokens make the prefill of a long prompt take a while on a model that is over it in a moment.
SMALL_CHUNKS = {"prefill_step_size": 32}


@pytest.fixture(scope="session")
def isolation_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a`, `b`, `c`, `held`: tiny models."""
    directory = tmp_path_factory.mktemp("isolation-models")
    make_tiny_model(directory / "a", seed=1)
    # Layers enough to speak for some seconds without keeping a client in Python busy.
    make_tiny_model(directory / "b", seed=2, layers=4)
    make_tiny_model(directory / "c", seed=3)
    make_tiny_model(directory / "held", seed=4)
    return directory


@pytest.fixture(scope="session")
def hold(isolation_models: Path) -> Path:
    """While this file exists, the load of `held` does not end: a death while loading cannot come too late."""
    return isolation_models / "hold"


@pytest.fixture(scope="module")
def isolated(isolation_models: Path, hold: Path) -> Iterator[Service]:
    """Two warm spares, so that even a death while loading finds an imported process; B is pinned."""
    broker = {"warm_spares": 2, "heartbeat_interval_seconds": 0.1, "heartbeat_timeout_seconds": 2.0}
    options = {"folder": str(isolation_models / "held"), "hold": str(hold)}
    held = {"engine": "tests.isolation.held_engine:HeldEngine", "type": "text-gen", "options": options}
    service = Service(isolation_models, {"broker": broker, "models": {"a": {"options": SMALL_CHUNKS}, "held": held}})
    try:
        service.start()
        service.load("b").raise_for_status()
        yield service
    finally:
        service.stop()
