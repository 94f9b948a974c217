"""Many long chats on two models under a small budget: they wait for memory, all are answered, and the shares of both
models together never exceed the budget."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model

MIB = 2**20
MODELS = ("deep-a", "deep-b")


def ready(service: Service) -> list[dict[str, Any]]:
    """The entries of both models, loaded and measured."""
    service.client.timeout = 200.0
    for model in MODELS:
        assert service.load(model).status_code == 200
    wait_until(lambda: all(service.model(model)["footprint_bytes"] > 0 for model in MODELS))
    return [service.model(model) for model in MODELS]


@pytest.mark.timeout(300)  # four loads
@pytest.mark.parametrize("chats", [12, pytest.param(32, marks=pytest.mark.slow)])
def test_many_long_chats_take_no_more_than_the_budget(
    make_service: Callable[..., Service], tmp_path: Path, chats: int
) -> None:
    for seed, name in enumerate(MODELS):
        make_tiny_model(tmp_path / name, seed=seed, layers=8, hidden_size=64)  # 2 KiB for a token of a sequence
    taken = sum(int(entry["footprint_bytes"]) for entry in ready(make_service(models_path=tmp_path)))
    budget = taken + 100 * MIB
    service = make_service(models_path=tmp_path, broker={"max_memory_gb": budget / 2**30})
    ready(service)
    seen: list[list[dict[str, Any]]] = []
    over = threading.Event()

    def watch() -> None:
        with service.second_client() as client:
            while not over.wait(0.02):
                seen.append(client.get("/admin/models/status").json()["models"])

    def chat(number: int) -> dict[str, Any]:
        # The answer is short; its memory is reserved whole.
        fields = {"max_tokens": 4000, "grammar": "start: /[a-z]{20}/"}
        body: dict[str, Any] = service.chat(MODELS[number % 2], f"{number} " * 100, **fields).json()
        return body

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(chats) as pool:
            answers = list(pool.map(chat, range(chats)))
    finally:
        over.set()
        watcher.join()
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert all(len(text) == 20 for text in texts), answers
    sums = [sum(entry["share_bytes"] for entry in entries) for entries in seen]
    assert max(sums) <= budget, service.log("broker")
    waited = [entry for entries in seen for entry in entries if entry["wanted_bytes"] > entry["share_bytes"]]
    assert waited, sums
    assert {entry["model_id"] for entry in waited} == set(MODELS)
