"""The folder of prompt caches on disk: what workers are told about it, and its removal."""

from pathlib import Path

import pytest

from broker.prompt_caches import PromptCaches
from broker.settings import GIB, load_settings
from broker.wire.settings_file import SettingsError
from tests.service import wait_until


def caches(folder: Path) -> PromptCaches:
    return PromptCaches(folder, 1000, 100, 10.0)


def fill(folder: Path, *models: str) -> dict[str, Path]:
    """What workers of these models have written."""
    written = {}
    for model in models:
        file = Path(caches(folder).assigned(model)["cache_dir"]) / "root" / "a.safetensors"
        file.parent.mkdir(parents=True)
        file.write_text(model)
        written[model] = file
    return written


def everything(folder: Path) -> list[Path]:
    return sorted((folder / "prompt-cache").iterdir())


def test_a_worker_is_told_its_folder_and_its_bounds(tmp_path: Path) -> None:
    told = caches(tmp_path).assigned("org/name")
    assert Path(told.pop("cache_dir")).parent == tmp_path / "prompt-cache"
    assert told == {"cache_bytes": 1000, "cache_reserve_bytes": 100, "cache_bytes_per_second": 10.0}
    assert PromptCaches(tmp_path).assigned("org/name") == {}


def test_names_of_folders_say_nothing_about_models(tmp_path: Path) -> None:
    names = [Path(caches(tmp_path).assigned(model)["cache_dir"]).name for model in ("org/name", "org/other")]
    assert len(set(names)) == 2
    assert all(set(name) <= set("0123456789abcdef") for name in names)


def test_one_model_is_forgotten_and_then_all(tmp_path: Path) -> None:
    caches(tmp_path).forget(None)  # nothing there is nothing to do
    files = fill(tmp_path, "a", "b", "c")
    caches(tmp_path).forget("a")
    assert [file.exists() for file in files.values()] == [False, True, True]
    caches(tmp_path).forget("a")
    PromptCaches(tmp_path).forget(None)  # it is off by now
    assert [file.exists() for file in files.values()] == [False, False, False]
    wait_until(lambda: everything(tmp_path) == [])


def test_what_a_broker_had_no_time_to_delete_the_next_one_deletes(tmp_path: Path) -> None:
    kept = fill(tmp_path, "a")["a"]
    (tmp_path / "prompt-cache" / ".removed-1").mkdir()
    caches(tmp_path).delete_leftovers()
    wait_until(lambda: everything(tmp_path) == [kept.parent.parent])


def test_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_BROKER_STATE_DIR", str(tmp_path))
    assert load_settings().prompt_caches == PromptCaches(tmp_path, 10 * GIB, 10 * GIB, 32e6)
    for name, value in {"DISK_GB": "0.5", "DISK_RESERVE_GB": "2", "DISK_WRITE_MB_PER_SECOND": "4"}.items():
        monkeypatch.setenv(f"MLX_BROKER_CACHE_{name}", value)
    assert load_settings().prompt_caches == PromptCaches(tmp_path, GIB // 2, 2 * GIB, 4e6)
    monkeypatch.setenv("MLX_BROKER_CACHE_DISK_GB", "0")
    assert load_settings().prompt_caches.assigned("a") == {}


@pytest.mark.parametrize(("name", "value"), [("GB", "-1"), ("RESERVE_GB", "-1"), ("WRITE_MB_PER_SECOND", "0")])
def test_impossible_sizes_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MLX_BROKER_CACHE_DISK_{name}", value)
    with pytest.raises(SettingsError, match=f"CACHE_DISK_{name}.*must be (at least|greater than) 0, not"):
        load_settings()
