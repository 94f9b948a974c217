"""Requests to the embedding engine: bad ones, many, and those that leave."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil
import pytest

from broker.wire.body import ProtocolError
from broker.wire.failure import FailureError
from broker.wire.outputs import ERROR
from broker.wire.packing import pack
from broker.wire.work import Embed, Generate, Rerank
from tests.tiny_encoders import CONTEXT, make_tiny_encoder, make_tiny_reranker
from tests.worker.embeddings.encoder_runs import MIXED, TEXTS, embed, load, run, scores_of, vectors_of
from tests.worker.stepping import refusal, steps
from worker.embeddings.engine import EmbeddingEngine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingEngine:
    return load(make_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny"), batch_tokens=64)


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ([], "inputs"),
        (["good", ""], "inputs[1]"),
        (["good", []], "inputs[1]"),
        (["good", None], "inputs[1]"),
        ([[1, -1]], "inputs[0]"),
        ([[1, 259]], "inputs[0]"),
        ([[1, True]], "inputs[0]"),
        ([[1, "1"]], "inputs[0]"),
        (["x" * (CONTEXT + 1)], "inputs[0]"),
        ([[1] * (CONTEXT + 1)], "inputs[0]"),
    ],
)
def test_a_bad_input_is_named(tiny: EmbeddingEngine, inputs: list[Any], param: str) -> None:
    assert refusal(tiny, Embed(inputs)).param == param


def test_work_of_another_kind_is_refused(tiny: EmbeddingEngine, tmp_path: Path) -> None:
    assert "can embed, but not rerank" in refusal(tiny, Rerank("query", ["document"])).message
    with pytest.raises(ProtocolError):
        tiny.add(b"r", pack(Generate(prompt="Hi")))
    reranker = load(make_tiny_reranker(tmp_path / "m"))
    assert "can rerank, but not embed" in refusal(reranker, Embed(["text"])).message
    assert refusal(reranker, Rerank("query", ["good", 1])).param == "documents[1]"  # type: ignore[list-item]
    error = refusal(reranker, Rerank("query", ["x" * CONTEXT]))
    assert (error.code, error.param) == ("context_length_exceeded", "documents[0]")


def test_a_large_request_does_not_hold_up_a_small_one(tiny: EmbeddingEngine) -> None:
    tiny.add(b"large", pack(Embed(["x" * 30] * 50)))
    assert tiny.step() == []
    tiny.add(b"small", pack(Embed(["x"])))
    assert [output.request_id for output in tiny.step()] == [b"small"]
    assert vectors_of(run(tiny)[b"large"]).shape == (50, 32)


def test_a_batch_waits_a_moment_for_as_many_requests_as_have_just_ended(
    tiny: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("worker.embeddings.engine.monotonic", lambda: now[0])

    def ends(*numbers: int) -> list[bytes]:
        """Of the next step, after these requests have come."""
        for number in numbers:
            tiny.add(b"%d" % number, pack(Embed(["text"])))
        return [output.request_id for output in tiny.step()]

    assert ends(1, 2, 3) == [b"1", b"2", b"3"]
    assert ends(4) == []
    assert tiny.has_work
    assert ends(5, 6) == [b"4", b"5", b"6"]
    assert ends(7, 8) == []
    now[0] += 0.002
    assert ends() == [b"7", b"8"]
    now[0] += 0.002
    assert ends(9) == [b"9"]
    assert ends(10) == [b"10"]  # one alone waits for nobody
    assert not tiny.has_work


def test_no_batch_is_larger_than_the_setting(tiny: EmbeddingEngine) -> None:
    for number in range(5):
        tiny.add(b"%d" % number, pack(Embed(MIXED)))
    assert not tiny._tokenise()
    while tiny.has_work:
        batch = tiny._next_batch()
        rows = [work.rows[number].tokens for work, number in batch]
        assert len(rows) == 1 or len(rows) * max(map(len, rows)) <= 64
        for work, number in batch:
            work.waiting.append(number)
        tiny.step()


def test_cancelled_requests_leave_and_the_others_do_not_notice(tiny: EmbeddingEngine) -> None:
    draw = random.Random(1)
    expected = embed(tiny, MIXED)
    ended: set[bytes] = set()
    for number in range(100):
        tiny.add(b"gone%d" % number, pack(Embed([draw.choice(MIXED)] * 9)))
        tiny.add(b"stays%d" % number, pack(Embed(MIXED)))
        for _ in range(draw.randrange(4)):
            for output in tiny.step():
                ended.add(output.request_id)
                if output.request_id.startswith(b"stays"):
                    assert mx.abs(vectors_of(output.body) - expected).max() < 1e-5
        tiny.cancel(b"gone%d" % number)
    tiny.cancel(b"unknown")
    ended |= {output.request_id for output in steps(tiny)}
    assert {b"stays%d" % number for number in range(100)} <= ended
    assert not tiny.has_work


def test_a_context_by_positions(tmp_path: Path) -> None:
    """XLM-RoBERTa counts positions from the one behind its padding token, so its first two are never used."""
    for family, context in {"bert": CONTEXT, "xlm-roberta": CONTEXT - 2}.items():
        engine = load(make_tiny_encoder(tmp_path / family, family))
        assert engine.facts.context_length == context
        embed(engine, ["x" * context])
        assert refusal(engine, Embed(["x" * (context + 1)])).code == "context_length_exceeded"


@pytest.mark.parametrize("is_reranker", [False, True])
def test_a_very_long_text_is_refused_unread(is_reranker: bool, tmp_path: Path) -> None:
    """Reading it would stop all other requests for many seconds."""
    folder = (make_tiny_reranker if is_reranker else make_tiny_encoder)(tmp_path / "m")
    long = "cat " * 5_000_000
    engine = load(folder)
    for payload in (Rerank("query", ["x", long]), Rerank(long, ["x"])) if is_reranker else (Embed(["x", long]),):
        with pytest.raises(FailureError, match=r"has \d+ characters, the model takes at most 64 tokens") as error:
            engine.add(b"r", pack(payload))
        assert error.value.failure.code == "context_length_exceeded"
    assert not engine.has_work


def test_a_very_long_list_of_token_ids_is_refused_unread(tiny: EmbeddingEngine) -> None:
    """Whether they are any: looking at 25 million of them takes seconds."""
    with pytest.raises(FailureError, match=rf"inputs\[1\] has {CONTEXT + 1} tokens, .* at most {CONTEXT}") as error:
        tiny.add(b"r", pack(Embed(["x", [-1] * (CONTEXT + 1)])))
    assert (error.value.failure.code, error.value.failure.param) == ("context_length_exceeded", "inputs[1]")
    assert not tiny.has_work


def test_texts_are_read_a_few_at_a_time_and_in_turn(tmp_path: Path) -> None:
    tiny = load(make_tiny_encoder(tmp_path / "m"))
    tiny.add(b"large", pack(Embed(["x" * 60] * 2048)))
    tiny.step()
    read = len(tiny._works[b"large"].rows)
    assert 0 < read * 60 <= 32_768 + 60
    tiny.add(b"small", pack(Embed(["x"])))
    assert [output.request_id for output in tiny.step()] == [b"small"]
    assert not tiny._works[b"large"].is_tokenised
    # One that is too long ends alone.
    tiny.add(b"long", pack(Embed(["x", "x" * 65])))
    assert [(output.request_id, output.kind) for output in tiny.step()] == [(b"long", ERROR)]
    tiny.cancel(b"large")
    assert not tiny.has_work


def test_an_input_that_cannot_be_read_ends_its_own_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tokenizer raises."""
    engine = load(make_tiny_encoder(tmp_path / "m"))
    expected, whole = embed(engine, TEXTS), engine.encoder.text

    def text(text: str, **options: bool) -> Any:
        return whole(text if text != "bad" else None, **options)  # type: ignore[arg-type] # which it refuses in words of its own

    monkeypatch.setattr(engine.encoder, "text", text)
    engine.add(b"bad", pack(Embed(["x", "bad", "y"])))
    engine.add(b"good", pack(Embed(TEXTS)))
    outputs = {output.request_id: output for output in steps(engine)}
    assert (outputs[b"bad"].kind, outputs[b"bad"].body["code"]) == (ERROR, "internal_error")
    assert outputs[b"bad"].body["message"].startswith("an input cannot be tokenised: ")
    assert mx.abs(vectors_of(outputs[b"good"].body) - expected).max() < 1e-5


def test_a_query_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(make_tiny_reranker(tmp_path / "m"))
    read, whole = [], engine.encoder.query

    def query(text: str) -> Any:
        read.append(text)
        return whole(text)

    monkeypatch.setattr(engine.encoder, "query", query)
    engine.add(b"r", pack(Rerank("query", ["a", "b", "c"])))
    assert len(scores_of(run(engine)[b"r"])) == 3
    assert read == ["query"]


@pytest.mark.slow
def test_two_thousand_requests_leave_nothing_behind(tiny: EmbeddingEngine) -> None:
    draw = random.Random(2)

    def serve(count: int) -> tuple[int, int]:
        for number in range(count):
            tiny.add(b"%d" % number, pack(Embed(["x" * draw.randint(1, 60)] * draw.randint(1, 3))))
            if number % 4 == 3:
                run(tiny)
        return tiny.memory().active_bytes, psutil.Process().memory_info().rss

    serve(500)
    active, resident = serve(4)
    active_after, resident_after = serve(2000)
    assert active_after <= active + 4096
    assert resident_after - resident < 16 * 2**20


def test_with_little_memory_steps_are_smaller_and_a_long_text_waits_for_more(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "bert")
    expected = embed(load(folder), MIXED)
    memory = mx.set_memory_limit(1 << 40)
    try:
        engine = load(folder, share=1 << 40)
        room = engine.room
        longest = max(len(engine.encoder.text(text).tokens) for text in MIXED)
        room.granted(room.needs(1, longest - 1), 0)
        engine.add(b"r", pack(Embed(MIXED)))
        while engine.has_work:
            assert engine.step() == []
        assert engine.stats().waiting_for_room == 1
        wish = room.wish()
        assert wish is not None
        assert wish.wanted >= wish.least == room.needs(1, longest)
        room.granted(wish.least, 0)
        assert mx.allclose(vectors_of(run(engine)[b"r"]), expected, atol=1e-5)
        room.granted(wish.least, room.needs(1, longest) - 1)
        refused = refusal(engine, Embed(["z" * 40, MIXED[-1]]))
        assert (refused.code, refused.param) == ("context_length_exceeded", "inputs[1]")
        assert f"{room.needs(1, longest) / 2**20:.1f} MiB" in refused.message
    finally:
        mx.set_memory_limit(memory)


def test_a_text_that_waits_for_more_memory_than_there_can_be_by_now_is_refused(tmp_path: Path) -> None:
    memory = mx.set_memory_limit(1 << 40)
    try:
        engine = load(make_tiny_encoder(tmp_path / "bert"), share=1 << 40)
        room = engine.room
        longest = max(len(engine.encoder.text(text).tokens) for text in MIXED)
        room.granted(room.needs(1, longest - 1), 0)
        engine.add(b"waits", pack(Embed(MIXED)))
        engine.add(b"fits", pack(Embed(["x"])))
        assert set(run(engine)) == {b"fits"}
        most = room.needs(1, longest) - 1  # another model has been pinned meanwhile
        room.granted(most, most)
        assert engine.has_work
        (ended,) = steps(engine)
        assert (ended.request_id, ended.kind) == (b"waits", ERROR)
        assert (ended.body["code"], ended.body["param"]) == (
            "context_length_exceeded",
            f"inputs[{max(range(len(MIXED)), key=lambda n: len(engine.encoder.text(MIXED[n]).tokens))}]",
        )
        assert engine.stats().waiting_for_room == 0
    finally:
        mx.set_memory_limit(memory)


def test_with_truncate_a_long_input_is_cut_as_the_tokenizer_cuts_it(tiny: EmbeddingEngine) -> None:
    """Special tokens stay; and nothing of a very long text is read in vain."""
    for long in ("x" * CONTEXT + "y" * 99, "xy" * 500_000, [7] * (CONTEXT + 5)):
        cut = embed(tiny, ["short", long], truncate=True)
        kept = tiny.encoder.text(long, cuts=True).tokens if isinstance(long, str) else long[:CONTEXT]
        assert len(kept) == CONTEXT
        assert mx.abs(cut - embed(tiny, ["short", kept])).max() < 1e-5
    assert mx.abs(embed(tiny, MIXED, truncate=True) - embed(tiny, MIXED)).max() < 1e-5
    assert refusal(tiny, Embed(["x" * (CONTEXT + 1)])).code == "context_length_exceeded"
