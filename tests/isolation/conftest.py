"""Models and a service for the isolation suite. A is the model that dies, B the model that must not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import Service
from tests.tiny_models import make_tiny_model

# A held model pauses in every chunk of its prefill.
SMALL_CHUNKS = {"prefill_step_size": 32}
# Seconds: longer than a healthy worker, whose compute threads have a low priority, is kept waiting on a busy machine.
HEARTBEAT_TIMEOUT = 4.0


@pytest.fixture(scope="session")
def isolation_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a`, `b`, `c`, `loading`: tiny models."""
    directory = tmp_path_factory.mktemp("isolation-models")
    make_tiny_model(directory / "a", seed=1)
    # Enough layers to stream for some seconds without keeping a Python client busy.
    make_tiny_model(directory / "b", seed=2, layers=4)
    make_tiny_model(directory / "c", seed=3)
    make_tiny_model(directory / "loading", seed=4)
    return directory


@pytest.fixture(scope="session")
def hold(isolation_models: Path) -> Path:
    """While this file exists, A pauses, so that no phase of its life ends before the signal comes."""
    return isolation_models / "hold"


@pytest.fixture(scope="module")
def isolated(isolation_models: Path, hold: Path) -> Iterator[Service]:
    """Two warm spares, so that even a death while loading finds an imported process; B is pinned."""
    broker = {"warm_spares": 2, "heartbeat_interval_seconds": 0.1, "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT}

    def held(name: str) -> dict[str, object]:
        options = {"folder": str(isolation_models / name), "hold": str(hold), **SMALL_CHUNKS}
        return {"engine": "tests.isolation.held_engine:HeldEngine", "type": "text-gen", "options": options}

    models = {name: held(name) for name in ("a", "loading")}
    # A tool of 75 kB fits into the prompt, so that not its length is what refuses it.
    models["b"] = {"options": {"context_length": 200_000}}
    with Service(isolation_models, {"broker": broker, "models": models}) as service:
        service.load("b").raise_for_status()
        yield service
