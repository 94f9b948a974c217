from dataclasses import replace

import pytest

from broker.policy.actions import Fail, ForwardRequest
from broker.policy.admission import wrong_task
from broker.policy.events import RequestArrived
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure
from broker.wire.kinds import Task
from tests.broker.policy.script import R1, R2, W1, Script
from tests.broker.policy.world_books import SimRequest

TEXT = {"generate", "count"}
TYPES = {
    "text-gen": TEXT,
    "vision": TEXT,
    "echo": TEXT,
    "embeddings": {"embed", "rerank"},
    "audio": {"transcribe", "speak", "voices"},
}
TASKS = ["generate", "count", "embed", "rerank", "transcribe", "speak", "voices"]


def spec_of(model_type: str) -> ModelSpec:
    return ModelSpec("org/m", model_type, "/models/m", 1000)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_does_the_work_of_its_type_only(model_type: str, task: str) -> None:
    fail = wrong_task(spec_of(model_type), task)
    if task in TYPES[model_type]:
        assert fail is None
    else:
        assert fail is not None
        assert (fail.code, fail.param) == ("invalid_request", "model")
        assert fail.message.startswith(f"org/m is a model of type {model_type}: it can ")
        assert ('`type = "embeddings"` in the settings' in fail.message) == (task in TYPES["embeddings"])


def test_a_refusal_says_what_the_type_can_do() -> None:
    embeddings, audio = (wrong_task(spec_of(name), "generate") for name in ("embeddings", "audio"))
    assert embeddings is not None
    assert "it can embed and rerank, not generate" in embeddings.message
    assert audio is not None
    assert "it can speak and transcribe, not generate" in audio.message


def test_what_a_model_does_by_its_files_counts_for_more_than_its_type() -> None:
    spec = replace(spec_of("audio"), tasks=frozenset({Task.SPEAK, Task.VOICES}))
    assert wrong_task(spec, "speak") is wrong_task(spec, "voices") is None
    fail = wrong_task(spec, "transcribe")
    assert fail is not None
    assert fail.message == "org/m is a model of type audio: it can speak, not transcribe"


def test_an_unknown_task_is_named() -> None:
    fail = wrong_task(spec_of("text-gen"), "dance")
    assert fail is not None
    assert "'dance'" in fail.message


def test_the_pool_starts_nothing_for_work_that_a_model_cannot_do() -> None:
    s = Script()
    s.requests[R1] = SimRequest("a")
    problem = Failure(Code.INVALID_REQUEST, "not this", param="model")
    wrong = RequestArrived(R1, "a", b"payload", s.specs["a"], problem)
    assert s.send(wrong) == [Fail(R1, Failure(Code.INVALID_REQUEST, "not this", "model"))]
    s.idle("a")
    s.requests[R1] = SimRequest("a")
    assert s.send(wrong) == [Fail(R1, Failure(Code.INVALID_REQUEST, "not this", "model"))]
    assert s.ask(R2, "a") == [ForwardRequest(W1, R2, "a", R2)]


def test_the_worker_is_told_the_task_and_so_is_its_successor() -> None:
    s = Script()
    first = s.idle("a")
    s.requests[R1] = SimRequest("a")
    event = RequestArrived(R1, "a", R1, s.specs["a"], task="count")
    assert s.send(event) == [ForwardRequest(first, R1, "a", R1, "count")]
    s.dies(first)
    second = s.worker("a").worker_id
    s.connect(second)
    assert ForwardRequest(second, R1, "a", R1, "count") in s.ready(second)
