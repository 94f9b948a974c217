"""Options of a text model in the settings file, through the whole service."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        models = Path(directory)
        make_tiny_model(models / "plain", hidden_size=128)
        for name in ("drafted", "unfit", "quantised", "told"):
            shutil.copytree(models / "plain", models / name)
        make_tiny_model(models / "org" / "small", seed=1)
        options = {
            "drafted": {"draft_model": "org/small", "num_draft_tokens": 2},
            "unfit": {"kv_bits": 4},
            "quantised": {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
            "told": {"chat_template": "{{ messages[0]['content'] }}{{ end }}"},
        }
        settings: dict[str, Any] = {"models": {name: {"options": of_one} for name, of_one in options.items()}}
        settings["models"]["told"]["defaults"] = {"max_tokens": 3, "chat_template_kwargs": {"end": "!!!!"}}
        if sys.platform == "linux":
            settings["broker"] = {"blas_library": "libnowhere.so.9"}
        with Service(models, settings) as service:
            yield service


def test_a_draft_model_by_name(service: Service) -> None:
    plain, drafted = (service.chat(name, max_tokens=40) for name in ("plain", "drafted"))
    assert drafted.status_code == 200, drafted.text
    assert drafted.json()["choices"] == plain.json()["choices"]
    sizes = {entry["id"]: entry["size_gb"] for entry in service.client.get("/v1/models").json()["data"]}
    assert sizes["drafted"] == pytest.approx(sizes["plain"] + sizes["org/small"], abs=2e-6)  # rounded


def test_a_quantised_cache(service: Service) -> None:
    response = service.chat("quantised", max_tokens=40)
    assert response.json()["usage"]["completion_tokens"] == 40, response.text


def test_a_custom_template_and_custom_defaults(service: Service) -> None:
    body = {"model": "told", "messages": [{"role": "user", "content": "Hello"}]}
    usage = service.client.post("/v1/chat/completions", json=body).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len("Hello!!!!"), 3)


def test_the_client_is_told_which_options_do_not_fit_the_model(service: Service) -> None:
    error = service.chat("unfit").json()["error"]
    assert error["code"] == "load_failed"
    assert "kv_bits 4 with kv_group_size 64 does not work with this model" in error["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="a setting for Linux")
def test_the_log_names_a_configured_blas_that_is_missing(service: Service) -> None:
    service.chat("plain")
    log = service.log("broker")
    assert log.count("workers load libnowhere.so.9 before MLX") == 1
    assert "blas_library: libnowhere.so.9: cannot open shared object file" in log
