"""A text engine with little memory: who waits, what is dropped, what is refused. Answers are those without a bound."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.failure import Code, FailureError
from broker.wire.outputs import ERROR, Output
from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import add, answer, joined, load, run, without_count
from tests.worker.stepping import steps
from worker.text.engine import TextEngine

PLENTY = 1 << 40
GREEDY: dict[str, Any] = {"temperature": 0.0}
CONTEXT = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, context_length=CONTEXT)


@pytest.fixture(scope="module")
def unbounded(folder: Path) -> TextEngine:
    return load(folder, prompt_cache_tokens=0)


@pytest.fixture(autouse=True)
def limits_as_before() -> Iterator[None]:
    memory, cache = mx.set_memory_limit(PLENTY), mx.set_cache_limit(PLENTY)
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


def with_room_for(folder: Path, *lengths: int, **options: Any) -> TextEngine:
    """An engine whose share is enough for sequences of these lengths together, and no more."""
    engine = load(folder, share=PLENTY, limit=PLENTY, **options)
    engine.room.plan.limit = 0
    engine.room.granted(engine.room.plan.needed(lengths), 0)
    return engine


def limit_to(engine: TextEngine, length: int) -> None:
    """The largest share is enough for one sequence of this length."""
    most = engine.room.plan.alone(length)
    engine.room.granted(most, most)


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{number}" * 500, "max_tokens": 60, **GREEDY} for number in range(count)]


def test_sequences_wait_for_room_in_their_order_and_their_answers_are_whole(
    folder: Path, unbounded: TextEngine
) -> None:
    requests = prompts(7)
    alone = [answer(unbounded, **fields) for fields in requests]
    engine = with_room_for(folder, 560, 560)
    ids = [add(engine, number, **fields) for number, fields in enumerate(requests)]
    stats = engine.stats()
    assert (stats.live, stats.waiting_for_room) == (7, 5)
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    most = 0
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        stats = engine.stats()
        most = max(most, stats.prefilling + stats.decoding)
    assert most == 2
    assert [without_count(joined(of_one)) for of_one in outputs.values()] == alone
    assert engine.stats().live == 0


def test_what_mlx_takes_stays_within_the_share(tmp_path: Path) -> None:
    deep = make_tiny_model(tmp_path / "deep", hidden_size=64, layers=4)
    engine = with_room_for(deep, 760, 760, 760)
    share = engine.room.plan.share
    for number in range(7):
        add(engine, number, prompt=f"{number}" * (700 - 100 * (number % 3)), max_tokens=60, **GREEDY)
    mx.reset_peak_memory()
    while engine.has_work:
        engine.step()
        assert mx.get_active_memory() <= share
    assert mx.get_peak_memory() <= share


def test_the_prompt_cache_gives_way_to_sequences(folder: Path, unbounded: TextEngine) -> None:
    engine = with_room_for(folder, 900, 900)
    run(engine, prompts(2))
    assert engine.stats().cached_tokens > 1000
    before = engine.stats().cached_entries
    fields = {"prompt": "z" * 1900, "max_tokens": 40, **GREEDY}
    request_id = add(engine, 9, **fields)
    assert engine.stats().waiting_for_room == 0
    assert engine.stats().cached_entries < before
    outputs = steps(engine)
    assert {output.request_id for output in outputs} == {request_id}
    assert without_count(joined(outputs)) == answer(unbounded, **fields)


def test_the_prompt_cache_stays_within_what_sequences_leave(folder: Path) -> None:
    engine = with_room_for(folder, 700)
    for fields in prompts(5):
        run(engine, [fields])
        plan = engine.room.plan
        assert plan.needed() + engine.stats().cached_bytes <= plan.share


def test_a_request_that_can_never_fit_is_refused_with_the_numbers(folder: Path) -> None:
    engine = load(folder, share=PLENTY)
    limit_to(engine, 1000)
    most = engine.room.plan.limit / 2**20
    for tokens, asked, param in ((1001, 10, "prompt"), (900, 101, "max_tokens")):
        with pytest.raises(FailureError) as raised:
            add(engine, 1, prompt="a" * tokens, max_tokens=asked)
        failure = raised.value.failure
        assert (failure.code, failure.param, failure.retryable) == (Code.CONTEXT_LENGTH_EXCEEDED, param, False)
        needed = engine.room.plan.alone(tokens + asked) / 2**20
        assert f"{needed:.1f} MiB" in failure.message
        assert f"{most:.1f} MiB" in failure.message
        assert "1000 tokens" in failure.message
    assert engine.stats().live == 0
    assert answer(engine, prompt="a" * 900, max_tokens=100, **GREEDY)["completion_tokens"] == 100


def test_an_answer_whose_length_nobody_stated_may_be_shorter(folder: Path) -> None:
    engine = load(folder, share=PLENTY)
    limit_to(engine, 1000)
    asked = {"prompt": "a" * 900, "max_tokens": 3000, **GREEDY}
    with pytest.raises(FailureError):
        add(engine, 1, **asked)
    body = answer(engine, **asked, max_tokens_is_default=True)
    assert (body["completion_tokens"], body["finish_reason"]) == (100, "length")


def test_a_prompt_whose_tokens_are_drawn_is_a_prompt(folder: Path) -> None:
    engine = load(folder, share=PLENTY)
    limit_to(engine, 300)
    asked = {"max_tokens": 3000, "max_tokens_is_default": True, "echo": True, "logprobs": 0, **GREEDY}
    with pytest.raises(FailureError) as raised:
        add(engine, 1, prompt="a" * 301, **asked)
    assert raised.value.failure.param == "prompt"
    assert "a prompt of 301 tokens" in raised.value.failure.message
    body = answer(engine, prompt="a" * 290, **asked)
    assert (body["completion_tokens"], len(body["logprobs"]), body["finish_reason"]) == (10, 300, "length")
    body = answer(engine, prompt="a" * 300, **{**asked, "max_tokens": 0})
    assert (body["completion_tokens"], len(body["logprobs"])) == (0, 300)


def test_a_request_that_waits_can_be_cancelled_and_the_next_one_begins(folder: Path) -> None:
    engine = with_room_for(folder, 560)
    first, second, third = (add(engine, number, **fields) for number, fields in enumerate(prompts(3)))
    engine.cancel(second)
    assert engine.stats().waiting_for_room == 1
    engine.cancel(first)
    assert engine.has_work
    assert {output.request_id for output in steps(engine)} == {third}


def test_nothing_to_do_until_room_is_granted(folder: Path) -> None:
    engine = with_room_for(folder, 560)
    add(engine, 1, prompt="b" * 2000, max_tokens=20, **GREEDY)
    assert steps(engine) == []
    wish = engine.room.wish()
    assert wish is not None
    assert wish.wanted >= engine.room.plan.alone(2020)
    assert engine.room.wish() is None
    engine.room.granted(wish.wanted, 0)
    assert joined(steps(engine))["completion_tokens"] == 20


def test_what_waits_and_can_never_fit_any_more_is_refused(folder: Path) -> None:
    engine = with_room_for(folder, 560)
    stated = add(engine, 1, prompt="b" * 2000, max_tokens=20, **GREEDY)
    shorter = add(engine, 2, prompt="c" * 500, max_tokens=3000, max_tokens_is_default=True, **GREEDY)
    limit_to(engine, 1000)
    assert engine.has_work
    outputs = steps(engine)
    (refused,) = [output for output in outputs if output.kind == ERROR]
    assert (refused.request_id, refused.body["code"]) == (stated, "context_length_exceeded")
    assert joined([o for o in outputs if o.request_id == shorter])["completion_tokens"] == 500


def test_who_is_asked_for_memory_begins_nothing_and_gives_back_what_becomes_free(folder: Path) -> None:
    engine = with_room_for(folder, 560, 560, 560)
    plan, room = engine.room.plan, engine.room
    had = plan.share
    room.wish()
    run(engine, prompts(2))
    assert engine.stats().cached_bytes > 0
    first = add(engine, 1, prompt="d" * 500, max_tokens=60, **GREEDY)
    alone = plan.needed()
    room.shrink(plan.fixed)
    assert engine.stats().cached_bytes == 0
    wish = room.wish()
    assert wish is not None
    assert (wish.wanted, wish.least) == (alone, alone)
    second = add(engine, 2, prompt="e" * 500, max_tokens=60, **GREEDY)
    assert engine.stats().waiting_for_room == 1
    assert {output.request_id for output in steps(engine)} == {first}
    wish = room.wish()
    assert wish is not None
    assert wish.wanted == plan.fixed
    assert room.wish() is None  # nothing more until the broker has answered
    room.granted(had + 1, 0)  # from before it knew
    assert plan.share == plan.fixed
    room.shrink(plan.fixed)  # an answer to a message is no question
    assert room.wish() is None
    assert not engine.has_work
    room.granted(plan.fixed, 0)
    wish = room.wish()
    assert wish is not None
    assert wish.wanted >= alone
    room.granted(wish.wanted, 0)
    assert {output.request_id for output in steps(engine)} == {second}


def test_memory_goes_back_in_blocks_when_sequences_end(folder: Path) -> None:
    engine = load(folder, share=PLENTY, prompt_cache_tokens=0)
    engine.room.granted(1 << 30, 1 << 30)
    wish = engine.room.wish()
    assert wish is not None
    assert wish.wanted < 1 << 30
    engine.room.granted(wish.wanted, 1 << 30)
    idle = wish.wanted
    for number in range(30):
        add(engine, number, prompt="f" * 3000, max_tokens=1000, **GREEDY)
    wish = engine.room.wish()
    assert wish is not None
    assert wish.wanted > idle
    engine.room.granted(wish.wanted, 1 << 30)
    told = 0
    while engine.has_work:
        engine.step()
        told += engine.room.wish() is not None
        for request_id in list(engine._uids)[:1]:  # which ones have begun
            engine.cancel(request_id)
    engine.room.wish()  # after the last end
    assert 0 < told <= 32
    assert engine.room.plan.share <= idle + 2 * engine.room.plan.block


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of unknown length outgrow their room sooner."""
    monkeypatch.setattr("worker.text.engine._BLOCK", 128)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("options", [{}, {"draft_model": True}])
def test_answers_of_unknown_length_grow_and_one_that_cannot_waits_and_goes_on(
    folder: Path, unbounded: TextEngine, options: dict[str, Any]
) -> None:
    options = {"draft_model": str(folder)} if options else {}
    requests = [{"prompt": f"{n}" * 300, "max_tokens": 250, **GREEDY, "stream": n == 0} for n in range(2)]
    alone = [answer(unbounded, **fields) for fields in requests]
    engine = with_room_for(folder, 430, 430, **options)
    ids = [add(engine, number, **fields, max_tokens_is_default=True) for number, fields in enumerate(requests)]
    assert engine.stats().waiting_for_room == 0
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    decoding = set()
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        decoding.add(engine.stats().decoding)
        assert engine.room.plan.needed() <= engine.room.plan.share
    assert decoding >= {1, 2}
    assert [without_count(joined(of_one)) for of_one in outputs.values()] == alone


@pytest.mark.usefixtures("small_blocks")
def test_growth_asks_the_broker_in_time(folder: Path) -> None:
    engine = with_room_for(folder, 450)
    engine.room.wish()
    add(engine, 0, prompt="p" * 300, max_tokens=600, max_tokens_is_default=True, **GREEDY)
    tokens, asked = 0, 0
    while engine.has_work:
        outputs = engine.step()
        if (wish := engine.room.wish()) is not None and wish.wanted > engine.room.plan.share:
            asked += 1
            engine.room.granted(wish.wanted, 0)
        assert engine.stats().waiting_for_room == 0
        tokens = max([tokens, *(output.body["completion_tokens"] for output in outputs)])
    assert tokens == 600
    assert asked >= 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("more", [{"seed": 1, "xtc_probability": 0.5}, {"seed": 2, "grammar": "start: /[a-zé]+/"}])
def test_seeded_and_constrained_answers_leave_and_go_on_too(
    folder: Path, unbounded: TextEngine, more: dict[str, Any]
) -> None:
    requests = [{"prompt": f"{n}" * 300, "max_tokens": 250, **more} for n in range(2)]
    alone = [answer(unbounded, **fields) for fields in requests]
    engine = with_room_for(folder, 430, 430)
    ids = [add(engine, number, **fields, max_tokens_is_default=True) for number, fields in enumerate(requests)]
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    waited = False
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        waited = waited or engine.stats().waiting_for_room > 0
    assert waited
    assert [without_count(joined(of_one)) for of_one in outputs.values()] == alone


def test_seeded_answers_with_a_draft_model_have_room_until_their_end(folder: Path) -> None:
    """How often they have drawn depends on what the draft model has said."""
    engine = with_room_for(folder, 1700, draft_model=str(folder))
    add(engine, 0, prompt="s" * 300, max_tokens=1400, max_tokens_is_default=True, seed=1)
    assert [*engine.room.plan.lengths.values()] == [1700]
    engine.cancel(b"gateway1" + bytes(8))


def test_a_share_of_nothing_is_a_share(folder: Path) -> None:
    engine = load(folder, share=PLENTY)
    engine.room.granted(0, 0)
    add(engine, 1, prompt="x", max_tokens=1)
    assert engine.stats().waiting_for_room == 1


@pytest.mark.usefixtures("small_blocks")
def test_an_answer_that_can_never_grow_any_more_ends_where_it_is(folder: Path, unbounded: TextEngine) -> None:
    fields = {"prompt": "g" * 300, "max_tokens": 600, **GREEDY}
    whole = str(answer(unbounded, **fields)["text"])
    engine = with_room_for(folder, 450)
    add(engine, 1, **fields, max_tokens_is_default=True)
    while not engine.room.waiting:
        engine.step()
    limit_to(engine, 425)
    body = joined(steps(engine))
    assert (body["finish_reason"], body["completion_tokens"]) == ("length", 128)
    assert whole.startswith(body["text"].rstrip("\ufffd"))
