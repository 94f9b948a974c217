"""What workers tell MLX about memory: real processes, with MLX's functions replaced by ones that record."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.wire.from_workers import Need, Ready
from broker.wire.packing import pack
from broker.wire.to_workers import Share, Shrink
from broker.wire.work import Embed
from tests.tiny_encoders import make_tiny_encoder
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision
from tests.worker.harness import Worker, WorkerHarness
from tests.worker.memory import recording

MIB = 2**20
ENGINES = {
    "text-gen": "tests.worker.memory.recording_text:RecordingText",
    "vision": "tests.worker.memory.recording_vision:RecordingVision",
    "embeddings": "tests.worker.memory.recording_embeddings:RecordingEmbeddings",
}


class Call(NamedTuple):
    name: str
    number: int


def calls(file: Path) -> list[Call]:
    lines = (line.split() for line in file.read_text().splitlines())
    return [Call(name, int(number)) for _, _, name, number in lines]


def values(file: Path, name: str) -> list[int]:
    return [call.number for call in calls(file) if call.name == name]


def served(worker: Worker, kind: str) -> None:
    """A request of each kind is answered."""
    if kind == "embeddings":
        request = worker.request_payload(pack(Embed(["a text", "another"])))
        assert worker.answer(request)["size"] > 0
    else:
        assert worker.answer(worker.request(prompt="hello", max_tokens=3))["completion_tokens"] == 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "text-gen": make_tiny_model(folder / "text"),
        "vision": make_tiny_vision(folder / "vision"),
        "embeddings": make_tiny_encoder(folder / "encoder"),
    }


@pytest.mark.parametrize(
    ("kind", "options"),
    [("text-gen", {}), ("text-gen", {"kv_bits": 8, "kv_group_size": 32}), ("vision", {}), ("embeddings", {})],
)
def test_without_the_setting_nothing_is_ever_wired(
    harness: WorkerHarness, models: dict[str, Path], tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    model = models[kind]
    if options:
        model = make_tiny_model(tmp_path / "wide", hidden_size=128)
    record, worker = tmp_path / "calls", harness.start()
    worker.assign(ENGINES[kind], model, kind, share=500 * MIB, limit=800 * MIB, record=str(record), **options)
    worker.expect(Ready)
    served(worker, kind)
    worker.send(Share(700 * MIB))
    served(worker, kind)
    names = [call.name for call in calls(record)]
    assert "set_wired_limit" not in names
    assert names.index("set_memory_limit") < names.index("weights")
    assert names.index("set_cache_limit") < names.index("weights")


def test_limits_follow_the_share(harness: WorkerHarness, models: dict[str, Path], tmp_path: Path) -> None:
    record, worker = tmp_path / "calls", harness.start()
    worker.assign(ENGINES["text-gen"], models["text-gen"], share=500 * MIB, limit=0, record=str(record), wires=True)
    worker.expect(Ready)
    need = worker.expect(Need)
    assert need.least_bytes <= need.share_bytes < 500 * MIB
    worker.send(Share(need.share_bytes))
    worker.send(Shrink(MIB))
    least = worker.expect(Need)
    worker.send(Share(least.share_bytes))
    served(worker, "text-gen")
    wired = values(record, "set_wired_limit")
    assert wired[:3] == [500 * MIB, need.share_bytes, least.share_bytes]
    assert wired == values(record, "set_memory_limit")
    assert all(cache <= share for cache, share in zip(values(record, "set_cache_limit"), wired, strict=True))


def test_no_more_is_wired_than_metal_recommends(
    harness: WorkerHarness, models: dict[str, Path], tmp_path: Path
) -> None:
    record, worker = tmp_path / "calls", harness.start()
    share = 2 * recording.WORKING_SET
    worker.assign(ENGINES["vision"], models["vision"], "vision", share=share, record=str(record), wires=True)
    worker.expect(Ready)
    served(worker, "vision")
    assert values(record, "set_wired_limit")[0] == recording.WORKING_SET
    assert max(values(record, "set_wired_limit")) == recording.WORKING_SET
