"""Earlier prompts are not computed again: counts, equal tokens, bounds. With every kind of store."""

import itertools
import string
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from broker.wire.outputs import ERROR, FINAL
from tests.tiny_models import make_tiny_model
from tests.worker import engine_runs
from tests.worker.cache.folder_store import FolderStore
from tests.worker.engine_runs import (
    WatchedStore,
    add,
    answer,
    assert_empty,
    load,
    load_recorded,
    load_with_batch,
    run,
    without_count,
)
from tests.worker.stepping import MOST_STEPS, steps
from worker.cache.kv_caches import shorten
from worker.cache.prefix_index import length
from worker.cache.prompt_cache import default_bytes
from worker.cache.worthwhile import worthwhile
from worker.text.engine import TextEngine


@pytest.fixture(autouse=True, params=["memory", "folder"])
def kind_of_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "folder":
        numbers = itertools.count()
        monkeypatch.setattr(engine_runs, "default_store", lambda: FolderStore(tmp_path / f"store-{next(numbers)}"))


@pytest.fixture(scope="module")
def without(tiny_model: Path) -> TextEngine:
    return load(tiny_model, prompt_cache_tokens=0)


def letters_only(engine: TextEngine) -> dict[str, float]:
    """A bias that makes the random model answer with text, which reads as the same tokens in the next turn."""
    encode = engine.loaded.tokenizer.encode
    return {str(token): 100.0 for letter in string.ascii_letters for token in encode(letter)}


def test_a_second_turn_reads_only_what_is_new(tiny_model: Path, without: TextEngine) -> None:
    engine, calls = load_recorded(tiny_model)
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20, "logit_bias": letters_only(engine)}
    chat = [{"role": "user", "content": "why? " * 200}]
    first = run(engine, [{"messages": chat, **fields}])[0][-1].body
    assert first["prompt_tokens"] > 1000
    assert first["cached_tokens"] == 0
    calls.clear()
    chat += [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "and then?"}]
    second = run(engine, [{"messages": chat, **fields}])[0][-1].body
    # The last token of an answer is never an input of the model.
    assert second["cached_tokens"] == first["prompt_tokens"] + first["completion_tokens"] - 1
    new = second["prompt_tokens"] - second["cached_tokens"]
    assert new == 1 + len("\n[user] and then?\n[assistant] ")
    assert calls == [(1, new - 1)] + [(1, 1)] * 20
    assert second["text"] == answer(without, messages=chat, **fields)["text"]


def test_caches_that_cannot_be_shortened_are_kept_at_the_history(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "window", layers=2, sliding_window=32)
    engine, without = load(folder, prefill_step_size=64), load(folder, prompt_cache_tokens=0)
    chat = [{"role": "user", "content": "why? " * 60}]
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
    first = run(engine, [{"messages": chat, **fields}])[0][-1].body
    assert first["text"] == answer(without, messages=chat, **fields)["text"]
    # Another answer than the model's own: only the history is shared.
    chat += [{"role": "assistant", "content": "because"}, {"role": "user", "content": "and then?"}]
    second = run(engine, [{"messages": chat, **fields}, {"messages": chat, **fields}, {"prompt": "x", **fields}])
    assert [outputs[-1].body["cached_tokens"] for outputs in second[:2]] == [len("[user] \n") + 300] * 2
    assert {outputs[-1].body["text"] for outputs in second[:2]} == {answer(without, messages=chat, **fields)["text"]}
    cancelled = add(engine, 1, messages=[{"role": "user", "content": "gone " * 60}], max_tokens=5)
    engine.step()
    engine.cancel(cancelled)
    assert_empty(engine)


@pytest.mark.parametrize("shared", [1, 17, 200])
def test_the_same_tokens_with_and_without(tiny_model: Path, without: TextEngine, shared: int) -> None:
    """Prompts with a common beginning, and one twice: greedy, seeded, in one batch with others."""
    engine = load(tiny_model)
    requests = [
        {"prompt": "s" * shared + tail, "max_tokens": 30, "temperature": temperature, "seed": 3}
        for tail in ("", "abc", "abd", "x" * 50, "abc")
        for temperature in (0.0, 0.9)
    ]
    expected = [without_count(outputs[-1].body) for outputs in run(without, requests)]
    one_by_one = [run(engine, [fields])[0][-1].body for fields in requests]
    together = [outputs[-1].body for outputs in run(engine, requests)]
    assert [without_count(body) for body in one_by_one] == expected
    assert [without_count(body) for body in together] == expected
    assert min(body["cached_tokens"] for body in together if body["prompt_tokens"] > 2) > 0


def test_a_prompt_that_was_stopped_by_a_string_is_kept(tiny_model: Path) -> None:
    engine = load(tiny_model)
    fields: dict[str, Any] = {"prompt": "q" * 300, "temperature": 0.0, "logit_bias": letters_only(engine)}
    fields["max_tokens"] = 50
    stop = run(engine, [fields])[0][-1].body["text"][20:23]
    again = load(tiny_model)
    assert run(again, [{**fields, "stop": [stop]}])[0][-1].body["finish_reason"] == "stop"
    assert run(again, [fields])[0][-1].body["cached_tokens"] >= 298


def test_it_stays_within_its_tokens(tiny_model: Path) -> None:
    store = WatchedStore()
    engine = load(tiny_model, make_store=lambda: store, prompt_cache_tokens=500)
    for number in range(20):
        run(engine, [{"prompt": f"{number} " + "p" * 100, "max_tokens": 3}])
        assert engine.stats().cached_tokens <= 500
        assert engine.stats().cached_tokens == sum(map(length, store.kept))
    assert engine.stats().cached_tokens > 300
    run(engine, [{"prompt": "p" * 600, "max_tokens": 3}])
    assert engine.stats().cached_tokens <= 500
    assert_empty(engine)


def test_it_stays_within_its_bytes_and_what_it_drops_is_freed(tiny_model: Path) -> None:
    store = WatchedStore()
    engine = load(tiny_model, make_store=lambda: store, prompt_cache_bytes=200_000)
    levels = []
    for number in range(30):
        for at_once in range(4):
            add(engine, at_once, prompt=f"{number} {at_once} " + "b" * 200, max_tokens=5)
        steps(engine)
        assert engine.stats().cached_bytes <= 200_000
        assert engine.stats().cached_bytes == sum(entry.nbytes for entry in store.kept.values())
        levels.append(engine.memory().active_bytes)
    assert engine.stats().cached_bytes > 100_000
    # The batch holds its last buffers until the next request: the level goes up and down by those.
    assert max(levels[15:]) <= max(levels[:15]) + 200_000


def test_off(without: TextEngine) -> None:
    for _ in range(2):
        assert run(without, [{"prompt": "o" * 50, "max_tokens": 2}])[0][-1].body["cached_tokens"] == 0
    stats = without.stats()
    assert (stats.cached_entries, stats.cached_tokens, stats.cached_bytes) == (0, 0, 0)


def test_no_cache_is_taken_out_where_it_is_off(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, batch = load_with_batch(tiny_model, prompt_cache_tokens=0)
    given, remove = [], batch.remove

    def removed(uids: list[int], **options: Any) -> Any:
        given.append(remove(uids, **options))
        return given[-1]

    monkeypatch.setattr(batch, "remove", removed)
    fields: dict[str, Any] = {"prompt": "o" * 50, "temperature": 0.0, "max_tokens": 20}
    whole = answer(without, **fields)["text"]
    assert answer(without, **fields, stop=[whole[3:5]])["finish_reason"] == "stop"
    add(without, 1, prompt="o" * 50, max_tokens=20)
    without.step()
    without.cancel(b"gateway1" + (1).to_bytes(8, "big"))
    assert given == [{}, {}]


def test_the_default_size() -> None:
    gib = 2**30
    assert default_bytes(0, 5 * gib) == gib // 2
    assert default_bytes(8 * gib, 4 * gib) == gib
    assert default_bytes(100 * gib, 4 * gib) == 2 * gib
    assert default_bytes(4 * gib, 5 * gib) == 0


@pytest.mark.parametrize(
    ("sliding_window", "steps_before", "read"),
    [
        *[(None, 1, 64), (None, 3, 192), (None, 4, 256), (None, 5, 320), (None, 30, 345)],
        # Where a cache cannot be shortened, that of a prompt is kept without its last token, after a step of its own.
        *[(32, 1, 64), (32, 3, 192), (32, 5, 319), (32, 6, 320), (32, 30, 344)],
    ],
)
def test_a_cancelled_request_leaves_what_it_has_read(
    tmp_path: Path, sliding_window: int | None, steps_before: int, read: int
) -> None:
    """While its prompt is read in pieces, and while it decodes."""
    folder = make_tiny_model(tmp_path / "model", layers=2, sliding_window=sliding_window)
    engine, without = load(folder, prefill_step_size=64), load(folder, prompt_cache_tokens=0)
    prompt = "".join(map(chr, range(32, 112))) * 4
    fields: dict[str, Any] = {"prompt": prompt, "temperature": 0.0, "logit_bias": letters_only(engine)}
    fields["max_tokens"] = 40
    expected = answer(without, **fields)
    request_id = add(engine, 1, **fields)
    for _ in range(steps_before):
        engine.step()
    engine.cancel(request_id)
    assert_empty(engine)
    # A prompt that continues its answer starts from its cache.
    more = {**fields, "prompt": prompt + expected["text"]}
    got = run(engine, [more])[0][-1].body
    # Where steps take long, the one after the first token has been launched with it.
    assert got["cached_tokens"] in (read, read + (read >= 320))
    assert without_count(got) == answer(without, **more)


def test_a_request_that_was_cancelled_before_it_began_leaves_nothing(tiny_model: Path) -> None:
    engine = load(tiny_model, completion_batch_size=1, prefill_batch_size=1)
    run(engine, [{"prompt": "k" * 100, "max_tokens": 3}])
    before = engine.stats().cached_tokens
    add(engine, 1, prompt="others decode", max_tokens=30)
    engine.step()
    for number, prompt in ((2, "n" * 100), (3, "k" * 50 + "n" * 50)):
        engine.cancel(add(engine, number, prompt=prompt, max_tokens=3))
    assert engine.stats().cached_tokens == before


def test_a_request_that_fails_leaves_what_it_has_read(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny_model)
    add(engine, 1, prompt="f" * 100, max_tokens=30, logprobs=1)
    engine.step()
    monkeypatch.setattr("worker.generation.sequence.token_logprobs", None)  # which raises where it is called
    assert steps(engine)[-1].kind == ERROR
    assert run(engine, [{"prompt": "f" * 100, "max_tokens": 3}])[0][-1].body["cached_tokens"] == 99


def test_what_is_larger_than_all_of_it_pushes_nothing_out(tiny_model: Path) -> None:
    engine = load(tiny_model, prompt_cache_bytes=200_000)
    run(engine, [{"prompt": "s" * 100, "max_tokens": 3}])
    run(engine, [{"prompt": "b" * 2000, "max_tokens": 3}])
    assert run(engine, [{"prompt": "s" * 100, "max_tokens": 3}])[0][-1].body["cached_tokens"] == 99


def ask(question: str, system: str = "rules " * 300) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"messages": messages, "temperature": 0.0, "max_tokens": 20}


def test_what_others_have_read_is_shared_before_they_end(tiny_model: Path, without: TextEngine) -> None:
    """While they decode, in a batch with shorter ones, and while they are read."""
    engine, batch = load_with_batch(tiny_model, prefill_step_size=512)
    add(engine, 1, **{**ask("one"), "max_tokens": 200})
    add(engine, 2, prompt="short", max_tokens=200)
    while (read := max((len(tokens) for _, tokens in batch.held()), default=0)) < 500:
        engine.step()
    (half,) = run_beside(engine, [ask("two")])
    assert half["cached_tokens"] == read < 1800
    requests = [ask("three"), ask("three"), ask("other")]
    common = len("[system] \n[user] ") + 1800
    bodies = run_beside(engine, requests)
    assert [body["cached_tokens"] for body in bodies] == [common + 1, common + 1, common]  # "t" is shared with "two"
    again = run_beside(engine, requests)
    assert [body["cached_tokens"] for body in again] == [body["prompt_tokens"] - 1 for body in bodies]
    expected = [answer(without, **fields) for fields in requests]
    assert [without_count(body) for body in bodies] == [without_count(body) for body in again] == expected
    assert engine.stats().live == engine.stats().decoding == 2


def run_beside(engine: TextEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The whole answers of these, while others go on."""
    ids = [add(engine, 100 + number, **fields) for number, fields in enumerate(requests)]
    bodies: dict[bytes, dict[str, Any]] = {}
    for _ in range(MOST_STEPS):
        bodies |= {output.request_id: output.body for output in engine.step() if output.kind == FINAL}
        if bodies.keys() >= set(ids):
            return [bodies[request_id] for request_id in ids]
    raise AssertionError("they do not come to an end")


def test_a_copy_of_what_is_shared_takes_no_more_than_that(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, batch = load_with_batch(tiny_model)
    add(engine, 1, prompt="s" * 100 + "t" * 3000, max_tokens=200)
    add(engine, 2, prompt="s" * 80, max_tokens=200)
    for _ in range(3):
        engine.step()
    assert add(engine, 3, prompt="s" * 31 + "u" * 99, max_tokens=2)
    assert engine.stats().cached_tokens == 0  # not worthwhile
    add(engine, 4, prompt="s" * 100 + "u", max_tokens=2)
    assert engine.stats().cached_tokens == 100  # of the longer one
    bytes_of_a_token = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8 numbers, float32
    assert engine.stats().cached_bytes == 100 * bytes_of_a_token
    # What one request has had copied, the next ones find.
    with monkeypatch.context() as patch:
        patch.setattr(batch, "extract_cache", None)
        add(engine, 5, prompt="s" * 100 + "v", max_tokens=2)
    counts = [output.body["cached_tokens"] for output in steps(engine)]
    assert sorted(counts) == [0, 0, 0, 100, 100]


def test_one_copy_is_made_for_a_request(tiny_model: Path) -> None:
    """Also where something is kept, and a live sequence holds more."""
    store = WatchedStore()
    engine = load(tiny_model, make_store=lambda: store)
    run(engine, [{"prompt": "s" * 50 + "x", "max_tokens": 1}])
    add(engine, 1, prompt="s" * 200, max_tokens=200)
    engine.step()
    store.loads.clear()
    wanted = add(engine, 2, prompt="s" * 150 + "u", max_tokens=2)
    assert list(map(length, store.loads)) == [150]
    counts = {output.request_id: output.body.get("cached_tokens") for output in steps(engine)}
    assert counts[wanted] == 150


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_cut_off_is_freed(bits: int | None) -> None:
    before = mx.get_active_memory()
    layer: Any = KVCache()
    numbers = mx.random.normal((1, 2, 3000, 32))
    layer.update_and_fetch(numbers, numbers + 1)
    if bits is not None:
        layer = layer.to_quantized(group_size=32, bits=bits)
    mx.eval(layer.state)
    del numbers
    whole = mx.get_active_memory() - before
    shorten([layer], 100)
    mx.eval(layer.state)
    assert layer.offset == 100
    assert mx.get_active_memory() - before < whole / 10


def test_nothing_is_shared_where_it_is_off(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, batch = load_with_batch(tiny_model, prompt_cache_tokens=0)
    monkeypatch.setattr(batch, "extract_cache", None)
    add(without, 1, **ask("one"))
    for _ in range(3):
        without.step()
    assert [body["cached_tokens"] for body in run_beside(without, [ask("two")])] == [0]
    steps(without)


def test_system_turns_are_kept_the_longest_where_caches_cannot_be_shortened(tmp_path: Path) -> None:
    engine = load(make_tiny_model(tmp_path / "window", layers=2, sliding_window=32), prompt_cache_tokens=1000)
    for number in range(20):
        system, question = ("rules " * 30, "why? " * 9) if number == 0 else ("", f"{number} other " * 9)
        run(engine, [ask(question, system)])
    assert engine.stats().cached_tokens > 700
    got = run(engine, [ask("and? " * 9, "rules " * 30)])[0][-1].body
    assert got["cached_tokens"] == len("[system] \n[user] ") + 180


def test_which_checkpoints_are_worthwhile() -> None:
    points = [(100, "system"), (131, "user")]
    assert worthwhile(points, 0) == {100: "system"}
    assert worthwhile([points[0], (132, "user")], 68) == {100: "system", 132: "user"}
    assert worthwhile(points, 69) == {131: "user"}
    assert worthwhile(points, 100) == {}
