"""What engines count is what their answers say, and heartbeats carry it to the end of the process."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.from_peers import Heartbeat
from broker.wire.outputs import Output
from broker.wire.packing import pack
from broker.wire.to_workers import Shutdown
from broker.wire.work import Embed
from tests.tiny_encoders import make_tiny_encoder
from tests.tiny_vision import make_tiny_vision
from tests.worker.embeddings import encoder_runs
from tests.worker.engine_runs import add, load, run
from tests.worker.harness import Worker, WorkerHarness
from tests.worker.text.one_row import OneRow
from tests.worker.text.test_warm_up import in_turns
from tests.worker.vision import vision_runs
from worker.engine import Engine
from worker.text.make_batch import MakeBatch, make_batch


def counted(engine: Engine) -> dict[str, int]:
    stats = engine.stats()
    names = ("generation_tokens", "prompt_tokens", "cached_prompt_tokens")
    return {name: getattr(stats, name) for name in names}


def told(answers: list[list[Output]]) -> dict[str, int]:
    """What the ends of these requests say, all together."""
    ends = [outputs[-1].body for outputs in answers]
    names = {
        "generation_tokens": "completion_tokens",
        "prompt_tokens": "prompt_tokens",
        "cached_prompt_tokens": "cached_tokens",
    }
    return {name: sum(end[field] for end in ends) for name, field in names.items()}


def summed(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


@pytest.fixture
def worker(harness: WorkerHarness) -> Worker:
    worker = harness.start()
    worker.serve("worker.echo.engine:EchoEngine")
    return worker


@pytest.mark.parametrize("kind", [make_batch, in_turns, OneRow])
def test_tokens_of_a_text_model(tiny_model: Path, kind: MakeBatch) -> None:
    engine = load(tiny_model, make_batch=kind, prefill_step_size=64)
    assert set(counted(engine).values()) == {0}  # warming up is no work
    requests: list[dict[str, Any]] = [
        {"prompt": letter * length, "temperature": 0.0, "max_tokens": 20, "stream": letter == "b"}
        for letter, length in (("a", 200), ("b", 3), ("c", 90))
    ]
    first = told(run(engine, requests))
    assert counted(engine) == first
    again = told(run(engine, requests[:1]))
    assert again["cached_prompt_tokens"] > 0
    assert counted(engine) == summed(first, again)


def test_of_a_prompt_that_is_cancelled_only_what_was_computed_counts(tiny_model: Path) -> None:
    engine = load(tiny_model, prefill_step_size=16)
    request_id = add(engine, 1, prompt="p" * 400, temperature=0.0, max_tokens=20)
    engine.step()
    engine.cancel(request_id)
    assert 0 < counted(engine)["prompt_tokens"] <= 16
    assert counted(engine)["generation_tokens"] == 0


def test_tokens_of_a_vision_model(tmp_path: Path) -> None:
    engine = vision_runs.load(make_tiny_vision(tmp_path / "vision"))
    assert set(counted(engine).values()) == {0}
    requests: list[dict[str, Any]] = [vision_runs.ONE, vision_runs.TEXT_ONLY]
    answers = run(engine, [{**fields, "temperature": 0.0, "max_tokens": 5} for fields in requests])
    assert counted(engine) == told(answers)


def test_tokens_of_an_embedding_model(tmp_path: Path) -> None:
    engine = encoder_runs.load(make_tiny_encoder(tmp_path / "encoder", "bert"))
    engine.add(b"r", pack(Embed(list(encoder_runs.TEXTS))))
    end = encoder_runs.run(engine)[b"r"]
    assert counted(engine) == {
        "generation_tokens": 0,
        "prompt_tokens": end["prompt_tokens"],
        "cached_prompt_tokens": 0,
    }


def heard(worker: Worker) -> Heartbeat:
    return worker.next_heartbeat()


def test_heartbeats_say_what_goes_on_and_the_last_one_comes_at_the_end(worker: Worker) -> None:
    first = worker.request(prompt="abcdefgh", stream=True, max_tokens=10)
    end = worker.answer(first)
    assert end["completion_tokens"] == 10
    while heard(worker).generation_tokens < 10:
        pass
    beat = heard(worker)
    assert (beat.prompt_tokens, beat.cached_prompt_tokens, beat.live) == (2, 0, 0)
    second = worker.request(prompt="abcd", stream=True, max_tokens=7)
    worker.answer(second)
    worker.send(Shutdown())
    last = worker.expect(Heartbeat)  # by the main thread: not after the time of the next beat
    assert (last.generation_tokens, last.prompt_tokens) == (17, 3)
    assert worker.exit_code() == 0
