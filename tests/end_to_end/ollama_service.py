"""A service for Ollama's clients: a model of each kind, a hub to pull from, and the second port."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ECHO, MISBEHAVING
from tests.hub import Hub, serving
from tests.scripted_model import make_scripted_model
from tests.service import Service, free_port
from tests.tiny_encoders import make_tiny_encoder
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision
from tests.worker.generation.scripted import CALL, TAGS, TOOL_TEMPLATE

ARGUMENTS = {"city": "Paris"}

# After a result the prompt ends with another letter, and so another script follows.
_TEMPLATE = TOOL_TEMPLATE.rstrip() + "{{ '>' if messages[-1]['role'] == 'tool' else ' ' }}"


@contextlib.contextmanager
def ollama_service(folder: Path) -> Iterator[tuple[Service, Hub]]:
    """folder: for its models. All of them may be loaded at the same time."""
    models = folder / "models"
    script = ("<think>", "hm", "</think>", "Well", *CALL)
    make_scripted_model(
        models / "calls",
        script,
        tags=TAGS,
        tool_parser="json_tools",
        chat_template=_TEMPLATE,
        others={">": ("Take ", "a hat.")},
    )
    make_tiny_model(models / "tiny")
    make_tiny_vision(models / "sees")
    make_tiny_encoder(models / "vectors")
    with serving({"org/new": make_tiny_model(folder / "repository", hidden_size=512)}) as hub:
        late = MISBEHAVING | {"options": {"on_load": "slow"}}
        settings = {
            "broker": {"max_models": 9},
            "gateway": {"ollama_port": free_port(), "keepalive_seconds": 0.3},
            "models": {
                "echo": ECHO,
                "stays": ECHO,
                "mortal": MISBEHAVING,
                "late": late,
                "later": late,
                "org/new": {"type": "echo"},
            },
        }
        service = Service(models, settings)
        service.environment.pop("HF_HUB_OFFLINE")
        service.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home")}
        try:
            yield service.start(), hub
        finally:
            hub.go_on.set()
            service.stop()
