"""Audio models in a running service: loaded, listed, measured, killed and unloaded like any other."""

from pathlib import Path

import psutil
import pytest

from tests.service import Service, wait_until
from tests.tiny_audio import make_tiny_whisper
from tests.tiny_speech import make_tiny_pocket

# The policies are the same for every type, and tests/broker/models/test_audio.py has the facts.
pytestmark = pytest.mark.slow


def test_audio_models_live_like_others(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_tiny_whisper(models / "hears")
    make_tiny_pocket(models / "speaks")
    with Service(models, {"broker": {"preload_models": ["hears"]}}) as service:
        hears = service.wait_state("hears", "ready", 90)
        assert (hears["model_type"], hears["preloaded"], hears["context_length"]) == ("audio", True, 0)
        loaded = service.load("speaks").json()
        assert (loaded["status"], loaded["model_type"], loaded["preloaded"]) == ("loaded", "audio", True)
        speaks = service.model("speaks")
        for model in (hears, speaks):
            assert model["share_bytes"] > 0
            assert model["footprint_bytes"] > 0

        listed = {model["id"]: model for model in service.client.get("/v1/models").json()["data"]}
        assert {name: (it["model_type"], it["capabilities"], it["state"]) for name, it in listed.items()} == {
            "hears": ("audio", ["transcribe"], "ready"),
            "speaks": ("audio", ["speak", "voices"], "ready"),
        }
        running = {it["model"]: it for it in service.client.get("/api/ps").json()["models"]}
        assert running.keys() == {"hears:latest", "speaks:latest"}
        assert running["hears:latest"]["details"]["family"] == "whisper"
        shown = service.client.post("/api/show", json={"model": "hears"}).json()
        assert shown["capabilities"] == ["audio"]
        assert "whisper.context_length" not in shown["model_info"]
        metrics = service.client.get("/metrics").text
        assert 'mlx_broker_num_requests_running{model="speaks"}' in metrics

        chat = service.chat("speaks")
        assert chat.status_code == 400
        assert "it can speak, not generate" in chat.json()["error"]["message"]

        assert service.kill("speaks").status_code == 200
        wait_until(lambda: not psutil.pid_exists(speaks["pid"]), what="the end of the killed process")
        wait_until(lambda: (it := service.model("speaks"))["state"] == "ready" and it["pid"] != speaks["pid"], 90)
        assert service.model("hears")["pid"] == hears["pid"]
        assert service.unload("hears").status_code == 200
        service.wait_state("hears", "unloaded")
