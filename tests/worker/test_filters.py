"""top_n_sigma and typical_p in both engines: a request's tokens are its own, and those of others do not change."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_vision import make_tiny_vision
from tests.worker import engine_runs
from tests.worker.engine_runs import joined, run
from tests.worker.vision import vision_runs

PLAIN: dict[str, Any] = {"prompt": "once", "max_tokens": 24, "seed": 3, "temperature": 3.0}
REQUESTS: list[dict[str, Any]] = [
    PLAIN,
    {**PLAIN, "top_n_sigma": 0.5},
    {**PLAIN, "typical_p": 0.1},
    {**PLAIN, "top_n_sigma": 1.5, "typical_p": 0.5, "top_p": 0.9},
    {**PLAIN, "prompt": "other", "temperature": 0.0},
]


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_each_request_filters_its_own_tokens(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    engine = engine_runs.load(tiny_model) if kind == "text" else vision_runs.load(make_tiny_vision(tmp_path / "tiny"))
    alone = [joined(run(engine, [fields])[0])["text"] for fields in REQUESTS]
    assert [joined(outputs)["text"] for outputs in run(engine, REQUESTS)] == alone
    assert len(set(alone)) == len(REQUESTS)
    likeliest = joined(run(engine, [{**PLAIN, "temperature": 0.0}])[0])["text"]
    assert joined(run(engine, [{**PLAIN, "top_n_sigma": 1e-6}])[0])["text"] == likeliest
