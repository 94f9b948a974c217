"""An engine in the test's own process, and requests to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from tests.worker.stepping import steps
from worker.cache.prefix_index import Key
from worker.cache.store import Entry, MemoryStore, Store
from worker.engine import Count, Engine
from worker.generation.calls.pieces import joined_calls
from worker.loading.model_folder import LoadedModel
from worker.text.batch import Batch
from worker.text.engine import TextEngine
from worker.text.make_batch import MakeBatch, make_batch
from worker.text.options import TextOptions

# Where engines keep their prompt caches; tests of another store replace it.
default_store: Callable[[], Store] = MemoryStore


def load(
    folder: Path,
    *,
    make_batch: MakeBatch = make_batch,
    make_store: Callable[[], Store] | None = None,
    share: int = 0,
    limit: int = 0,
    disk: dict[str, Any] | None = None,
    **options: Any,
) -> TextEngine:
    """make_store: None for `default_store`. share, limit: of memory, 0 for no bound. disk: fields of Assign."""
    assign = Assign(folder.name, str(folder), "text-gen", None, options, share, limit, **(disk or {}))
    store = make_store or default_store
    return TextEngine(assign, lambda _stage, _fraction: None, make_batch=make_batch, make_store=store)


def load_with_batch(folder: Path, **options: Any) -> tuple[TextEngine, Batch]:
    """An engine and the batch that it drives."""
    made: list[Batch] = []

    def make(loaded: LoadedModel, draft: Any, settings: TextOptions) -> Batch:
        made.append(make_batch(loaded, draft, settings))
        return made[0]

    return load(folder, make_batch=make, **options), made[0]


def load_recorded(folder: Path, **options: Any) -> tuple[TextEngine, list[tuple[int, int]]]:
    """An engine and what its model computes: of each call the rows, and the tokens of each row."""
    models: list[Recorded] = []

    def make(loaded: LoadedModel, draft: Any, settings: TextOptions) -> Batch:
        models.append(Recorded(loaded.model))
        return make_batch(replace(loaded, model=models[0]), draft, settings)

    engine = load(folder, make_batch=make, **options)
    models[0].calls.clear()  # what was found out while loading
    return engine, models[0].calls


class WatchedStore:
    """A `default_store` that tells what it keeps and which entries have been loaded."""

    def __init__(self) -> None:
        self._store = default_store()
        self.kept = self._store.entries()
        self.loads: list[Key] = []

    def entries(self) -> dict[Key, Entry]:
        return self._store.entries()

    def keep(self, key: Key, entry: Entry, cache: list[Any]) -> None:
        self._store.keep(key, entry, cache)
        self.kept[key] = entry

    def load(self, key: Key) -> list[Any] | None:
        self.loads.append(key)
        return self._store.load(key)

    def drop(self, key: Key) -> None:
        self._store.drop(key)
        del self.kept[key]


def add(engine: Engine, number: int, **fields: Any) -> bytes:
    request_id = b"gateway1" + number.to_bytes(8, "big")
    engine.add(request_id, pack(Generate(**fields)))
    return request_id


def run(engine: Engine, requests: list[dict[str, Any]]) -> list[list[Output]]:
    """The outputs of each of these requests, all in the batch from the beginning."""
    ids = [add(engine, number, **fields) for number, fields in enumerate(requests)]
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    for output in steps(engine):
        outputs[output.request_id].append(output)
    for of_one in outputs.values():
        assert [output.kind == PARTIAL for output in of_one] == [True] * (len(of_one) - 1) + [False]
    assert_empty(engine)
    return list(outputs.values())


def joined(outputs: list[Output]) -> dict[str, Any]:
    """All outputs of one request as if they were one, without what only streams say. A call that is cut short is
    left out."""
    whole: dict[str, Any] = {}
    for output in outputs:
        for name, value in output.body.items():
            if name in ("ids", "held"):
                continue
            whole[name] = whole[name] + value if name in whole else value
    whole.pop("prompt", None)
    if calls := joined_calls(whole.pop("tool_calls", [])):
        whole["tool_calls"] = calls
    return whole


def answer(engine: Engine, **fields: Any) -> dict[str, Any]:
    """The answer in one, without what the history decides about."""
    (outputs,) = run(engine, [fields])
    return without_count(joined(outputs))


def without_count(body: dict[str, Any]) -> dict[str, Any]:
    """Without the number of tokens from the prompt cache, about which the history decides."""
    return {name: value for name, value in body.items() if name not in ("cached_tokens", "prompt")}


def counted(count: Count, **fields: Any) -> int:
    """The tokens of the prompt of a Generate with these fields."""
    *before, tokens = count(pack(Generate(**fields)))
    assert not any(before)
    assert tokens is not None
    return tokens


def assert_empty(engine: Engine) -> None:
    stats = engine.stats()
    assert not engine.has_work
    assert (stats.live, stats.waiting, stats.prefilling, stats.decoding) == (0, 0, 0, 0)


class Recorded:
    """A model that records of each call the rows, and the tokens of each row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.calls: list[tuple[int, int]] = []

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        rows, length = tokens.shape
        self.calls.append((rows, length))
        return self._model(tokens, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
