import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import Service

AGENT = "agent"


@pytest.fixture(scope="session")
def played_model() -> Iterator[Service]:
    """A service whose only model plays for client programs."""
    # A pause in each step: what a process has said has left it before it dies.
    options = {"delay_seconds": 0.01}
    models = {AGENT: {"type": "echo", "engine": "tests.clients.agent:Agent", "options": options}}
    # What programs make of an error in mid-answer: no answer goes on.
    settings = {"models": models, "gateway": {"resume_limit": 0}}
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory, Service(Path(directory), settings) as service:
        yield service


@pytest.fixture
def playing(played_model: Service) -> Service:
    """The same, whatever deaths the test before has brought about: a load forgets them."""
    played_model.load(AGENT).raise_for_status()
    return played_model
