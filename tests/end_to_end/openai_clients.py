"""OpenAI's own client of a service."""

from typing import Any

from openai import OpenAI

from tests.service import Service


def client_of(service: Service, **options: Any) -> OpenAI:
    """It tries nothing twice."""
    return OpenAI(base_url=f"{service.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30.0, **options})
