"""The broker's settings: environment over file over default, and one clear line for every mistake."""

import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, time
from pathlib import Path

import pytest

from broker.fields import read
from broker.policy.budget import Hardware
from broker.policy.limits import PoolLimits
from broker.settings import GIB, BrokerSettings, load_settings
from broker.wire.settings_file import SettingsError
from tests.broker.policy.world_books import MIB
from tests.service import ROOT


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory, and no setting in the environment."""
    for name in os.environ:
        if name.startswith("MLX_BROKER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MLX_BROKER_{name}", value)


def mistakes() -> list[str]:
    with pytest.raises(SettingsError) as error:
        load_settings()
    return str(error.value).splitlines()


# ---- where they come from -----------------------------------------------------------------------------------------


def test_everything_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    assert settings.state_dir == Path("/home/somebody/.local/state/mlx-broker")
    assert settings.models_dir == Path("/home/somebody/.cache/mlx-broker/models")
    assert settings.hub_dir == Path("/home/somebody/.cache/huggingface/hub")
    assert (settings.models, settings.preload_models, settings.max_models) == ({}, [], 4)


def test_folders_follow_the_variables_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    settings = load_settings()
    assert (settings.state_dir, settings.models_dir) == (Path("/state/mlx-broker"), Path("/cache/mlx-broker/models"))
    assert settings.hub_dir == Path("/cache/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/hf")
    assert load_settings().hub_dir == Path("/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert load_settings().hub_dir == Path("/hub")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, MAX_MODELS="7", MAX_MEMORY_GB="1.5", MODELS_DIR="/models", WARM_SPARES="0")
    settings = load_settings()
    assert (settings.max_models, settings.max_memory_gb, settings.models_dir, settings.warm_spares) == (
        7,
        1.5,
        Path("/models"),
        0,
    )


def test_the_file_in_the_working_directory() -> None:
    Path("mlx-broker.toml").write_text(
        'runtime_dir = "/run/mlx"\n[broker]\nmax_models = 2\n[gateway]\nport = 1\n[models."org/a"]\ntype = "vision"\n'
    )
    settings = load_settings()
    assert (settings.runtime_dir, settings.max_models) == (Path("/run/mlx"), 2)
    assert settings.models["org/a"].override().model_type == "vision"


def test_the_file_that_a_variable_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("mlx-broker.toml").write_text("[broker]\nmax_models = 2\n")
    (tmp_path / "other.toml").write_text("[broker]\nmax_models = 3\n")
    monkeypatch.setenv("MLX_BROKER_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().max_models == 3


def test_variables_in_any_case_and_those_that_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("mlx_broker_max_models", "7")
    set_variables(monkeypatch, MAX_QUEUE="", NO_SUCH_SETTING="1")
    settings = load_settings()
    assert (settings.max_models, settings.max_queue) == (7, BrokerSettings().max_queue)


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mlx-broker.toml").write_text('[broker]\nmax_models = 2\nmax_queue = 3\npreload_models = ["a", "b"]\n')
    set_variables(monkeypatch, MAX_MODELS="7", PRELOAD_MODELS="c")
    settings = load_settings()
    assert (settings.max_models, settings.max_queue, settings.preload_models) == (7, 3, ["c"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ["a"]), ("org/a,b", ["org/a", "b"]), (" a , b ,, ", ["a", "b"]), (" ", []), (",", [])],
)
def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]) -> None:
    set_variables(monkeypatch, PRELOAD_MODELS=text)
    assert load_settings().preload_models == expected


def test_lists_in_the_file() -> None:
    Path("mlx-broker.toml").write_text('[broker]\npreload_models = ["org/a", "b"]\n')
    assert load_settings().preload_models == ["org/a", "b"]


def test_models_are_preloaded_by_their_aliases() -> None:
    aliases = '[aliases]\nx = "b"\ny = { model = "x" }\nz = 3\nloop = "loop"\n'  # the gateway refuses the last two
    Path("mlx-broker.toml").write_text(aliases + '[broker]\npreload_models = ["org/a", "x", "y", "z", "loop"]\n')
    assert load_settings().preloaded == ["org/a", "b", "b", "z", "loop"]


def test_what_the_file_says_about_a_model() -> None:
    Path("mlx-broker.toml").write_text(
        '[models.echo]\ntype = "echo"\nengine = "worker.echo.engine:EchoEngine"\noptions = {delay_seconds = 0.1}\n'
        "keep_alive_seconds = -1\nmemory_limit_gb = 0.5\n[models.plain]\n"
    )
    settings = load_settings()
    override = settings.models["echo"].override()
    assert (override.model_type, override.engine) == ("echo", "worker.echo.engine:EchoEngine")
    assert (override.options, override.keep_alive_seconds) == ({"delay_seconds": 0.1}, -1.0)
    assert override.memory_limit_bytes == GIB // 2
    assert settings.models["plain"].override().memory_limit_bytes is None


# ---- what the pool obeys ------------------------------------------------------------------------------------------


def test_the_machine_and_the_setting_reach_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = load_settings().limits(64 * GIB, has_metal=True)
    assert (limits.machine, limits.block_bytes) == (Hardware(64 * GIB, 0, has_metal=True), 64 * MIB)
    set_variables(monkeypatch, MAX_MEMORY_GB="0.5")
    limits = load_settings().limits(64 * GIB, has_metal=False)
    assert (limits.machine, limits.block_bytes) == (Hardware(64 * GIB, GIB // 2), 4 * MIB)
    set_variables(monkeypatch, WIRED_MEMORY="true")
    assert load_settings().limits(64 * GIB, has_metal=True).machine.wires


def test_every_limit_reaches_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "MAX_MODELS": "max_models",
        "MAX_QUEUE": "max_queue",
        "MAX_REQUESTS_PER_MODEL": "max_requests_per_model",
        "QUEUE_TIMEOUT_SECONDS": "queue_timeout",
        "DRAIN_TIMEOUT_SECONDS": "drain_timeout",
        "STOP_GRACE_SECONDS": "stop_grace",
        "KEEP_ALIVE_SECONDS": "keep_alive",
        "HEARTBEAT_TIMEOUT_SECONDS": "heartbeat_timeout",
        "STALL_TIMEOUT_SECONDS": "stall_timeout",
        "LOAD_STALL_TIMEOUT_SECONDS": "load_stall_timeout",
        "MEMORY_LIMIT_FACTOR": "memory_limit_factor",
    }
    set_variables(monkeypatch, **{name: str(n) for n, name in enumerate(names, start=11)}, WARM_SPARES="3")
    limits = load_settings().limits(GIB, has_metal=False)
    assert {name: getattr(limits, name) for name in names.values()} == {
        name: n for n, name in enumerate(names.values(), start=11)
    }
    assert limits.warm_spares == 3


def test_a_worker_with_wired_memory_has_longer_to_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WIRED_MEMORY="true")
    assert load_settings().limits(GIB, has_metal=False).stop_grace == 10.0
    set_variables(monkeypatch, STOP_GRACE_SECONDS="30")
    assert load_settings().limits(GIB, has_metal=False).stop_grace == 30.0


def test_the_defaults_of_settings_and_pool_are_the_same() -> None:
    limits = load_settings().limits(64 * GIB, has_metal=False)
    assert limits == PoolLimits(limits.max_models, limits.machine)


# ---- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("MAX_MODELS", value) for value in ("0", "-1", "many", "1.5")),
        *(("MAX_MEMORY_GB", value) for value in ("-1", "nan", "inf", "lots")),
        *(("KEEP_ALIVE_SECONDS", "nan"), ("HEARTBEAT_INTERVAL_SECONDS", "inf"), ("MODELS", "/models")),
        *(("QUEUE_TIMEOUT_SECONDS", value) for value in ("0", "-1", "soon")),
        *(("STALL_TIMEOUT_SECONDS", "0"), ("STOP_GRACE_SECONDS", "0"), ("HEARTBEAT_INTERVAL_SECONDS", "0")),
        *(("MAX_QUEUE", "-1"), ("MAX_REQUESTS_PER_MODEL", "0"), ("DRAIN_TIMEOUT_SECONDS", "-1")),
        *(("MEMORY_LIMIT_FACTOR", "0.5"), ("WARM_SPARES", "-1"), ("WARM_SPARES", "99"), ("LOG_LEVEL", "loud")),
    ],
)
def test_an_impossible_value_is_one_line_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    set_variables(monkeypatch, **{variable: value})
    [line] = mistakes()
    place = "models" if variable == "MODELS" else f"[broker] {variable.lower()} (MLX_BROKER_{variable})"
    assert line.startswith(f"{place}: ")


def test_every_mistake_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mlx-broker.toml").write_text(
        '[broker]\nmax_modles = 1\nmax_queue = "x"\n[models."org/a"]\nengine = "rm -rf"\ntype = "poem"\ncolour = 1\n'
    )
    set_variables(monkeypatch, MAX_MODELS="0")
    names = {line.partition(": ")[0] for line in mistakes()}
    expected = {"[broker] max_modles", "[broker] max_models (MLX_BROKER_MAX_MODELS)"}
    expected |= {"[broker] max_queue (MLX_BROKER_MAX_QUEUE)"}
    assert names == expected | {"models.org/a.engine", "models.org/a.type", "models.org/a.colour"}


@pytest.mark.parametrize("value", ["2026-11-25", "10:00:00", str(2**64)])
def test_options_that_no_worker_can_be_sent_are_one_line(value: str) -> None:
    Path("mlx-broker.toml").write_text(f"[models.a.options]\nkey = [{{inner = {value}}}]\n")
    [line] = mistakes()
    assert line.startswith("models.a.options: must be values that can be sent to a worker")


@pytest.mark.parametrize(
    "text",
    ["[broker", "broker = 1\n", "models = 1\n", "models.a = 1\n", "speed = 1\n", "[brokre]\n", "\udcff"],
)
def test_a_file_that_cannot_be_understood_is_one_line(text: str) -> None:
    Path("mlx-broker.toml").write_bytes(text.encode(errors="surrogateescape"))
    [line] = mistakes()
    assert ": " in line


def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_BROKER_CONFIG", str(tmp_path / "gone.toml"))
    [line] = mistakes()
    assert line.startswith(f"{tmp_path}/gone.toml: ")
    monkeypatch.setenv("MLX_BROKER_CONFIG", str(tmp_path))
    assert len(mistakes()) == 1


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = BrokerSettings()
    with pytest.raises(FrozenInstanceError):
        settings.max_models = 5  # type: ignore[misc] # which mypy knows


# ---- as a person meets them ---------------------------------------------------------------------------------------


def start_broker(directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **{f"MLX_BROKER_{name}": v for name, v in variables.items()}},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_mistakes_stop_the_start_with_exit_code_2_and_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "mlx-broker.toml").write_text("[broker]\nspeed = 1\n")
    result = start_broker(tmp_path, MAX_MODELS="0", MAX_QUEUE="-1")
    assert result.returncode == 2
    assert result.stdout == ""
    names = [line.removeprefix("broker: ").partition(": ")[0] for line in result.stderr.splitlines()]
    assert sorted(names) == [
        "[broker] max_models (MLX_BROKER_MAX_MODELS)",
        "[broker] max_queue (MLX_BROKER_MAX_QUEUE)",
        "[broker] speed",
    ]


def test_so_does_a_runtime_directory_that_cannot_be_used(tmp_path: Path) -> None:
    too_long = tmp_path / ("x" * 120)
    result = start_broker(tmp_path, RUNTIME_DIR=str(too_long))
    assert result.returncode == 2
    assert result.stderr == f"broker: runtime_dir {too_long} is too long for sockets: choose a shorter one\n"


def test_what_is_shown_is_json_whatever_toml_can_say() -> None:
    """Dates and times as ISO 8601 has them; JSON has no infinity."""
    said = {
        "at": datetime(2020, 1, 2, 3, 4, tzinfo=UTC),
        "on": date(2020, 1, 2),
        "by": time(3, 4),
        "most": [math.inf, math.nan, 1.5],
    }
    shown = read(BrokerSettings, {"models": {"m": {"defaults": said}}}).shown()
    expected = {"at": "2020-01-02T03:04:00+00:00", "on": "2020-01-02", "by": "03:04:00", "most": [None, None, 1.5]}
    assert shown["models"]["m"]["defaults"] == expected
    json.dumps(shown, allow_nan=False)
