"""What a broker says about itself and its models, over a real socket; its workers are threads."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire.from_gateways import CancelPull, Describe, Models, Pin
from broker.wire.outputs import ERROR, FINAL
from broker.wire.version import VERSION
from tests.broker.models.model_folders import make_model
from tests.broker.test_launcher import MODEL, House
from tests.service import wait_until


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="mlxb-") as directory:
        make_model(Path(directory) / "half", weights={})
        house = House(Path(directory))
        yield house
        house.close()


def test_it_describes_itself(house: House) -> None:
    [(kind, body)] = house.ask(Describe())
    assert kind == FINAL
    assert (body["version"], body["pid"], body["has_metal"]) == (VERSION, os.getpid(), False)
    assert time.time() - 60 < body["started_at"] <= time.time()
    settings = body["settings"]
    assert (settings["max_memory_gb"], settings["warm_spares"], settings["blas_library"]) == (1.0, 0, None)
    assert settings["models"][MODEL]["type"] == "echo"


def test_the_status_has_the_machine_and_the_version(house: House) -> None:
    status = house.whole_status()
    assert (status["machine_total_bytes"], status["machine_available_bytes"]) == (8 << 30, 3 << 30)
    assert status["version"] == VERSION
    assert time.time() - 60 < status["started_at"] <= time.time()


def test_models_are_listed_with_what_is_broken_only_where_asked_for(house: House) -> None:
    [(_, plain)] = house.ask(Models())
    [(_, whole)] = house.ask(Models(with_broken=True))
    assert plain.keys() == {"models"}
    assert [(model["model_id"], model["pinned"]) for model in plain["models"] if model["model_id"] == MODEL] == [
        (MODEL, False)
    ]
    assert [(entry["model_id"], "no model*.safetensors" in entry["reason"]) for entry in whole["broken"]] == [
        ("half", True)
    ]
    assert [folder["exists"] for folder in whole["folders"]] == [True, False]


def test_a_pin_is_answered_before_the_model_is_loaded(house: House) -> None:
    assert house.ask(Pin(MODEL)) == [(FINAL, {"model_id": MODEL})]
    wait_until(lambda: house.status()["state"] == "ready", what="the pinned model")
    assert (house.status()["pinned"], house.status()["loads"]) == (True, 1)
    [(_, plain)] = house.ask(Models())
    assert [model["model_id"] for model in plain["models"] if model["pinned"]] == [MODEL]
    [(kind, body)] = house.ask(Pin("org/absent"))
    assert (kind, body["code"]) == (ERROR, "model_not_found")


def test_there_is_no_download_to_end(house: House) -> None:
    [(kind, body)] = house.ask(CancelPull(MODEL))
    assert (kind, body["code"], body["message"]) == (ERROR, "not_loaded", f"Model not being downloaded: {MODEL}")
