"""A store that outlives its engine: the next one goes on from what it finds there, and what is lost is a miss."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_families import FAMILIES, make_tiny_family
from tests.worker.cache.folder_store import FolderStore
from tests.worker.engine_runs import answer, load, run, without_count
from worker.text.engine import TextEngine

ASKED: dict[str, Any] = {"prompt": "once upon a time " * 9, "temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module", params=["llama", *sorted(FAMILIES)])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "llama":
        return tiny_model
    return make_tiny_family(tmp_path_factory.mktemp("families") / request.param, request.param)


def over(store: Path, folder: Path, **options: Any) -> TextEngine:
    return load(folder, make_store=lambda: FolderStore(store), **options)


def test_the_next_engine_goes_on_from_what_it_finds(folder: Path, tmp_path: Path) -> None:
    expected = answer(load(folder, prompt_cache_tokens=0), **ASKED)
    first = over(tmp_path, folder)
    assert answer(first, **ASKED) == expected
    second = over(tmp_path, folder)
    found, left = second.stats(), first.stats()
    assert (found.cached_entries, found.cached_tokens, found.cached_bytes) == (
        left.cached_entries,
        left.cached_tokens,
        left.cached_bytes,
    )
    assert found.cached_entries > 0
    body = run(second, [ASKED])[0][-1].body
    assert body["cached_tokens"] == body["prompt_tokens"] - 1
    assert without_count(body) == expected


def test_what_is_lost_is_a_miss(folder: Path, tmp_path: Path) -> None:
    engine = over(tmp_path, folder)
    expected = answer(engine, **ASKED)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    body = run(engine, [ASKED])[0][-1].body
    assert body["cached_tokens"] == 0
    assert without_count(body) == expected


def test_a_smaller_cache_evicts_what_it_finds(tiny_model: Path, tmp_path: Path) -> None:
    first = over(tmp_path, tiny_model)
    for letter in "abc":
        run(first, [{"prompt": letter * 100, "max_tokens": 1}])
    assert first.stats().cached_entries == 3
    second = over(tmp_path, tiny_model, prompt_cache_tokens=250)
    assert (second.stats().cached_entries, len(list(tmp_path.iterdir()))) == (2, 2)
    counts = [run(second, [{"prompt": letter * 100, "max_tokens": 1}])[0][-1].body["cached_tokens"] for letter in "cb"]
    assert counts == [99, 99]
