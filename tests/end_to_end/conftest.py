"""What several files here start alike."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.end_to_end.openai_clients import client_of
from tests.service import Service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    """OpenAI's client of the service that a file has for all of its tests. Patient: audio on a CPU takes a while."""
    with client_of(service, timeout=60.0) as client:
        yield client
