"""The settings file is read again: what counts at once, what waits, and mistakes that leave everything as it was."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.models.catalog import Catalog
from broker.policy.events import Event, LimitsChanged
from broker.reread import LIMITS, TIMEOUTS, Rereading
from broker.settings import GIB, BrokerSettings, load_settings
from broker.wire.failure import Code, FailureError
from tests.broker.policy.world_books import MIB
from tests.service import ROOT

MACHINE = 32 * GIB


class Broker:
    """What a broker has that reads the file again."""

    def __init__(self, path: Path) -> None:
        self.file = path / "mlx-broker.toml"
        self.told: list[Event] = []
        settings = load_settings()
        self.catalog = Catalog(path / "models", path / "hub", settings.overrides)
        self.rereading = Rereading(
            settings, load=load_settings, limits=self.limits, catalog=self.catalog, put=self.told.append
        )

    @staticmethod
    def limits(settings: BrokerSettings) -> Any:
        return settings.limits(MACHINE, has_metal=False)

    def read(self, text: str, *, apply: bool = True) -> dict[str, Any]:
        self.file.write_text(text)
        return self.rereading.reread(apply)

    def options_of(self, model_id: str) -> dict[str, Any]:
        return self.catalog.find(model_id).options


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Broker:
    for name in os.environ:
        if name.startswith("MLX_BROKER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Broker(tmp_path)


def changed(applied: list[str], models: list[str], restart: list[str]) -> dict[str, list[str]]:
    return {"applied": applied, "at_next_load": models, "needs_restart": restart}


def test_a_file_that_says_the_same_changes_nothing(broker: Broker) -> None:
    assert broker.read("[broker]\nmax_models = 4\n") == changed([], [], [])
    assert broker.told == []


def test_limits_count_at_once_and_shares_keep_their_blocks(broker: Broker) -> None:
    before = broker.limits(broker.rereading.settings)
    assert broker.read("[broker]\nmax_models = 2\nmax_memory_gb = 1\n") == changed(
        ["max_memory_gb", "max_models"], [], []
    )
    machine = replace(before.machine, setting_bytes=GIB)
    assert broker.told == [LimitsChanged(replace(before, max_models=2, machine=machine))]
    assert broker.limits(broker.rereading.settings).block_bytes == 8 * MIB != before.block_bytes


def test_what_is_built_in_at_the_start_waits_and_is_not_shown_as_in_force(broker: Broker) -> None:
    assert broker.read('[broker]\nallow_downloads = true\nlog_level = "debug"\n') == changed(
        [], [], ["allow_downloads", "log_level"]
    )
    assert not broker.rereading.settings.allow_downloads
    assert broker.told == []
    assert broker.read("") == changed([], [], []), "and is no change once it is taken back"


def test_a_models_own_settings_count_when_it_is_loaded_next(broker: Broker) -> None:
    echo = '[models.one]\nengine = "worker.echo.engine:EchoEngine"\n'
    assert broker.read(echo) == changed([], ["one"], [])
    assert broker.options_of("one") == {}
    assert broker.read(echo + "options = {words = 3}\n[models.two]\nmemory_limit_gb = 2\n") == changed(
        [], ["one", "two"], []
    )
    assert broker.options_of("one") == {"words": 3}
    assert broker.told == [], "no running model is touched"


def test_what_only_gateways_read_is_not_the_brokers(broker: Broker) -> None:
    text = '[models.one.defaults]\ntemperature = 0.5\n[aliases]\nshort = "one"\n[gateway]\nport = 1\n'
    assert broker.read(text) == changed([], [], [])


def test_a_mistake_leaves_everything_as_it_was_and_each_has_a_line(broker: Broker) -> None:
    before = broker.rereading.settings
    with pytest.raises(FailureError) as error:
        broker.read('[broker]\nmax_models = 0\nmax_queue = 1\nmax_memroy_gb = 9\n[models.one]\ntype = "none"\n')
    assert error.value.failure.code is Code.INVALID_REQUEST
    lines = error.value.failure.message.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "models.one.type",
        "[broker] max_models (MLX_BROKER_MAX_MODELS)",
        "[broker] max_memroy_gb",
    ]
    assert (broker.rereading.settings, broker.told) == (before, [])
    with pytest.raises(FailureError, match=r"mlx-broker\.toml"):
        broker.read("[broker\n")
    assert (broker.rereading.settings, broker.told) == (before, [])


def test_a_check_applies_nothing(broker: Broker) -> None:
    before = broker.rereading.settings
    assert broker.read("[broker]\nmax_models = 2\n", apply=False) == changed(["max_models"], [], [])
    assert (broker.rereading.settings, broker.told) == (before, [])


def test_timeouts_wait_for_the_heartbeats_that_they_judge(broker: Broker) -> None:
    """Workers that run beat as they were told when they started."""
    slow = "[broker]\nheartbeat_interval_seconds = 10\nheartbeat_timeout_seconds = 60\n"
    assert broker.read(slow) == changed([], [], ["heartbeat_interval_seconds", "heartbeat_timeout_seconds"])
    assert broker.rereading.settings.heartbeat_timeout_seconds == 10
    assert broker.read("[broker]\nheartbeat_timeout_seconds = 60\n") == changed(["heartbeat_timeout_seconds"], [], [])


def test_what_the_settings_say_of_models_replaces_what_they_said(broker: Broker) -> None:
    broker.read('[models.one]\nengine = "worker.echo.engine:EchoEngine"\n')
    assert broker.read("") == changed([], ["one"], [])
    assert broker.rereading.settings.overrides == {}


def test_the_settings_that_count_at_once_are_those_of_the_docs() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    told = re.search(r"\*\*these count at once:\*\*(.*?) as well\.", text, flags=re.DOTALL)
    assert told is not None
    names = set(re.findall(r"`(\w+)`", told[1]))
    assert names == LIMITS | TIMEOUTS | {"heartbeat_interval_seconds"}
