"""Models in lists, in /api/show and in /api/ps, and the progress of a download."""

from datetime import datetime
from typing import Any

import pytest

from broker.wire.failure import Code, Failure
from gateway.core.administration import ListedModel, ModelReport, PullProgress, PullReport
from gateway.core.sampling import Defaults
from gateway.ollama.dialect import OLLAMA, bare, field_name, tagged
from gateway.ollama.models import capabilities_of, details_of, digest_of, info_of, list_entry, running_entry, shown
from gateway.ollama.pulls import PullLines
from tests.gateway.ollama.bodies import lines_in

QWEN = ListedModel(
    model_id="org/Qwen3-8B-4bit",
    model_type="text-gen",
    size_bytes=2**32,
    quantization="4-bit",
    context_length=40960,
    state="unloaded",
    created=1_700_000_000.5,
    capabilities=["generate", "reasoning", "tools"],
    architecture="qwen3",
    parameters=8_190_735_360,
)
ECHO = ListedModel(
    model_id="demo/echo",
    model_type="echo",
    size_bytes=0,
    quantization=None,
    context_length=0,
    state="ready",
    created=0.0,
)
DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "qwen3",
    "families": ["qwen3"],
    "parameter_size": "8.2B",
    "quantization_level": "4-bit",
}


def test_an_entry_of_the_list() -> None:
    entry = list_entry(QWEN.model_id, QWEN)
    assert entry == {
        "name": "org/Qwen3-8B-4bit:latest",
        "model": "org/Qwen3-8B-4bit:latest",
        "modified_at": "2023-11-14T22:13:20.500000+00:00",
        "size": 2**32,
        "digest": digest_of(QWEN),
        "details": DETAILS,
        "capabilities": ["completion", "tools", "thinking"],
    }
    assert len(digest_of(QWEN)) == 64
    assert digest_of(QWEN.model_copy(update={"created": 1.0})) != digest_of(QWEN)


def test_what_programs_ask_about_a_model() -> None:
    answer = shown("qwen3:latest", QWEN, Defaults(temperature=0.6, max_tokens=100))
    assert answer["model_info"] == {
        "general.architecture": "qwen3",
        "general.basename": "qwen3:latest",
        "general.parameter_count": 8_190_735_360,
        "qwen3.context_length": 40960,
    }
    assert answer["capabilities"] == ["completion", "tools", "thinking"]
    assert answer["details"] == DETAILS
    assert str(answer["parameters"]).split() == ["temperature", "0.6", "num_predict", "100"]
    assert answer["template"] == "{{ .Prompt }}"


def test_what_is_not_known_is_empty_and_never_null() -> None:
    assert info_of("echo", ECHO) == {"general.architecture": "echo", "general.basename": "echo"}
    assert details_of(ECHO) | {"family": "echo", "families": ["echo"]} == details_of(ECHO)
    assert (details_of(ECHO)["parameter_size"], details_of(ECHO)["quantization_level"]) == ("", "")
    assert None not in details_of(None).values()


@pytest.mark.parametrize(
    ("can", "words"),
    [
        (["embed"], ["embedding"]),
        (["rerank"], []),
        (["transcribe"], ["audio"]),
        (["speak", "voices"], []),
        (["generate", "infill"], ["completion", "insert"]),
        (["generate", "reasoning", "tools", "vision"], ["completion", "tools", "vision", "thinking"]),
    ],
)
def test_capabilities_in_ollamas_words(can: list[str], words: list[str]) -> None:
    assert capabilities_of(QWEN.model_copy(update={"capabilities": can})) == words


def test_a_model_that_fills_in_the_middle_has_a_place_for_the_suffix() -> None:
    assert ".Suffix" in str(shown("a", QWEN.model_copy(update={"capabilities": ["infill"]}), Defaults())["template"])


@pytest.mark.parametrize(("count", "text"), [(8_190_735_360, "8.2B"), (134_515_008, "135M"), (None, "")])
def test_the_size_in_parameters(count: int | None, text: str) -> None:
    assert details_of(QWEN.model_copy(update={"parameters": count}))["parameter_size"] == text


def report(**fields: Any) -> ModelReport:
    numbers = ("rss_bytes", "footprint_bytes", "mlx_active_bytes", "mlx_cache_bytes", "mlx_peak_bytes")
    given = {"model_id": QWEN.model_id, "state": "ready", "pinned": False, "size_bytes": 5, "loaded_at": 1.0}
    return ModelReport(**{**given, "last_used": 2.0, **dict.fromkeys(numbers, 0), **fields})


def test_a_loaded_model_says_until_when_it_stays() -> None:
    entry = running_entry(report(idle_until=1_700_000_000.0), QWEN)
    assert entry == {
        "name": "org/Qwen3-8B-4bit:latest",
        "model": "org/Qwen3-8B-4bit:latest",
        "size": 5,
        "digest": digest_of(QWEN),
        "details": DETAILS,
        "expires_at": "2023-11-14T22:13:20+00:00",
        "size_vram": 5,
        "context_length": 40960,
    }
    for_good = running_entry(report(pinned=True), None)
    assert datetime.fromisoformat(str(for_good["expires_at"])).year > 2200
    assert None not in for_good.values()
    assert len(str(for_good["digest"])) == 64  # programs show the first letters


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("tiny", "tiny"),
        ("tiny:latest", "tiny"),
        ("Tiny:LATEST", "Tiny"),
        ("org/tiny:latest", "org/tiny"),
        ("qwen3:fast", "qwen3:fast"),
        ("hf.co/org/tiny", "org/tiny"),
        ("HF.co/org/tiny:latest", "org/tiny"),
        ("huggingface.co/org/tiny", "org/tiny"),
        (":latest", ""),
    ],
)
def test_what_ollamas_clients_write_around_a_name(asked: str, name: str) -> None:
    assert bare(asked) == name


@pytest.mark.parametrize(
    ("name", "listed"), [("a/b", "a/b:latest"), ("qwen3:fast", "qwen3:fast"), ("a:b/c", "a:b/c:latest")]
)
def test_lists_have_tags(name: str, listed: str) -> None:
    assert tagged(name) == listed


def test_errors_say_where() -> None:
    def told(code: Code, message: str, param: str | None = None) -> object:
        return OLLAMA.error(Failure(code, message, param))["error"]

    assert told(Code.INVALID_REQUEST, "is odd", "messages[0]") == "messages[0]: is odd"
    assert told(Code.INVALID_REQUEST, "messages[0] is odd", "messages[0]") == "messages[0] is odd"
    assert told(Code.WORKER_DIED, "signal SIGKILL") == "signal SIGKILL"
    assert told(Code.MODEL_NOT_FOUND, "no model named 'x'") == "model not found: no model named 'x'"
    names = {"inputs[3]": "input[3]", "inputs": "input", "dimensions": "dimensions", "model": "model"}
    assert {name: field_name(name) for name in names} == names


def step(done: int, total: int, reason: str | None = None) -> tuple[int, PullProgress]:
    fraction = done / total if total else None
    return 0, PullProgress(model_id="a", reason=reason, fraction=fraction, done_bytes=done, total_bytes=total)


END = (0, PullReport(model_id="a", size_bytes=9))
SUCCEEDED = [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"}]


def test_the_progress_of_a_download() -> None:
    lines = PullLines("org/tiny")
    assert lines_in(lines.keepalive()) == [{"status": "pulling manifest"}]
    waiting = lines_in(lines.render([step(0, 0, "waits for another download"), step(0, 0)]))
    assert waiting == [{"status": "waits for another download"}, {"status": "pulling manifest"}]
    [bar] = lines_in(lines.render([step(3, 9)]))
    assert (bar["total"], bar["completed"]) == (9, 3)
    assert bar["digest"].startswith("sha256:")
    assert bar["digest"].removeprefix("sha256:").startswith(bar["status"].removeprefix("pulling "))
    assert lines_in(lines.keepalive()) == [bar]
    assert not lines.is_complete
    assert lines_in(lines.render([END])) == [{**bar, "completed": 9}, *SUCCEEDED]
    assert lines.is_complete


def test_a_model_that_is_there_already() -> None:
    lines = PullLines("org/tiny")
    assert lines_in(lines.render([END])) == [{"status": "pulling manifest"}, *SUCCEEDED]


def test_a_download_that_fails() -> None:
    lines = PullLines("org/tiny")
    lines.render([step(3, 9)])
    assert lines_in(lines.error(Failure(Code.MODEL_UNAVAILABLE, "was not downloaded"))) == [
        {"error": "was not downloaded"}
    ]
