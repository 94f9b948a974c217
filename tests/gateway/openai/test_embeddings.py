"""Embeddings and reranking: requests to the wire and back, and over HTTP with a real gateway and a played broker."""

import asyncio
import base64
import struct
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import unpack
from broker.wire.work import Embed, Rerank
from gateway.core.answer import floats_of, scores_of, vectors_of
from gateway.core.failure import STATUS
from gateway.openai.inputs import MAX_INPUTS, embedding_work, parse_embedding, parse_rerank, rerank_work
from gateway.openai.lists import ranked
from tests.gateway.played_broker import SECONDS, PlayedBroker
from tests.gateway.running import running_gateway

BAD_INPUTS: list[Any] = ["", [], [""], ["a", ""], [[]], [1, "a"], [-1], [1.5], [True], None, 5, {}]


def packed(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a text", ["a text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([1.0, 2], [[1, 2]]),
        ([[1, 2.0], "a"], [[1, 2], "a"]),
    ],
)
def test_every_form_of_input(given: Any, inputs: Any) -> None:
    for dimensions in (8, 8.0):
        wanted = parse_embedding(orjson.dumps({"input": given, "dimensions": dimensions, "user": "me"}))
        assert embedding_work(wanted) == Embed(inputs, 8)
        assert "." not in repr(embedding_work(wanted))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input", value) for value in BAD_INPUTS),
        ("input", ["x"] * (MAX_INPUTS + 1)),
        *(("dimensions", value) for value in (0, -1, "8", 1.5, True, 2**63, 1e30)),
        *(("encoding_format", value) for value in ("int8", 1)),
        *(("model", value) for value in ("", 1)),
    ],
)
def test_a_bad_field_of_embeddings_is_named(field: str, value: Any) -> None:
    with pytest.raises(FailureError) as error:
        parse_embedding(orjson.dumps({"input": "a", field: value}))
    assert (STATUS[error.value.failure.code], error.value.failure.param) == (400, field)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("query", "", "query"),
        ("query", None, "query"),
        ("documents", [], "documents"),
        ("documents", ["a", ""], "documents[1]"),
        ("documents", ["a", 1], "documents[1]"),
        ("documents", ["x"] * (MAX_INPUTS + 1), "documents"),
        ("top_n", 0, "top_n"),
        ("top_n", 1.5, "top_n"),
        ("return_documents", "yes", "return_documents"),
        ("instruction", "Judge!", "instruction"),
    ],
)
def test_a_bad_field_of_a_reranking_is_named(field: str, value: Any, param: str) -> None:
    with pytest.raises(FailureError) as error:
        parse_rerank(orjson.dumps({"query": "q", "documents": ["a"], field: value}))
    assert (STATUS[error.value.failure.code], error.value.failure.param) == (400, param)


def test_the_best_documents_come_first() -> None:
    wanted = parse_rerank(orjson.dumps({"query": "q", "documents": ["a", "b", "c"], "return_documents": True}))
    assert rerank_work(wanted) == Rerank("q", ["a", "b", "c"])
    scores = [0.25, 0.5, 0.25]
    assert ranked(wanted, scores) == [
        {"index": 1, "relevance_score": 0.5, "document": {"text": "b"}},
        {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},
        {"index": 2, "relevance_score": 0.25, "document": {"text": "c"}},
    ]
    one = parse_rerank(orjson.dumps({"query": "q", "documents": ["a", "b", "c"], "top_n": 1}))
    assert ranked(one, scores) == [{"index": 1, "relevance_score": 0.5}]


def test_vectors_are_cut_out_of_a_final() -> None:
    final = {"vectors": packed(1, 2, 3, 4), "size": 2, "prompt_tokens": 5}
    assert [floats_of(vector) for vector in vectors_of(final, 2).split()] == [[1.0, 2.0], [3.0, 4.0]]
    assert vectors_of(final, 2).prompt_tokens == 5
    assert scores_of({"scores": packed(0.5, 0.25), "prompt_tokens": 5}, 2).scores == [0.5, 0.25]


@pytest.mark.parametrize(
    "final",
    [{}, {"vectors": "text", "size": 2}, {"vectors": packed(1, 2, 3), "size": 2}, {"vectors": packed(1, 2), "size": 0}],
)
def test_a_final_that_is_none_of_an_embedding(final: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=r"vectors|size"):
        vectors_of({**final, "prompt_tokens": 5}, 1)
    with pytest.raises(ProtocolError, match="scores"):
        scores_of({"scores": final.get("vectors"), "prompt_tokens": 5}, 1)


async def expect_embed(broker: PlayedBroker) -> tuple[bytes, InferenceRequest, Embed]:
    request_id, request = await broker.expect(InferenceRequest)
    return request_id, request, unpack(Embed, request.payload)


@pytest.mark.anyio
async def test_embeddings_over_http(runtime_dir: Path) -> None:
    async with (
        PlayedBroker(runtime_dir) as broker,
        running_gateway(broker, runtime_dir, default_model="org/default") as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=SECONDS) as client,
    ):

        def ask(path: str, **body: Any) -> "asyncio.Task[httpx.Response]":
            return asyncio.create_task(client.post(path, json=body))

        final = {"vectors": packed(0.5, -1, 2, 0), "size": 2, "prompt_tokens": 7}
        asking = ask("/v1/embeddings", model="org/m", input=["a", "b"])
        request_id, request, work = await expect_embed(broker)
        assert (request.model, request.task, work) == ("org/m", "embed", Embed(["a", "b"]))
        await broker.final(request_id, final)
        assert (await asking).json() == {
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
                {"object": "embedding", "index": 1, "embedding": [2.0, 0.0]},
            ],
            "model": "org/m",
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        }

        asking = ask("/v1/embeddings", input=["a", "b"], encoding_format="base64")
        request_id, request, _ = await expect_embed(broker)
        assert request.model == "org/default"
        await broker.final(request_id, final)
        encoded = [base64.b64decode(item["embedding"]) for item in (await asking).json()["data"]]
        assert encoded == [packed(0.5, -1), packed(2, 0)]

        asking = ask("/v1/rerank", query="q", documents=["a", "b"], top_n=1)
        request_id, request = await broker.expect(InferenceRequest)
        assert (request.task, unpack(Rerank, request.payload)) == ("rerank", Rerank("q", ["a", "b"]))
        await broker.final(request_id, {"scores": packed(0.25, 0.75), "prompt_tokens": 9})
        answer = (await asking).json()
        assert answer["results"] == [{"index": 1, "relevance_score": 0.75}]
        assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}

        asking = ask("/v1/embeddings", input="a")
        request_id, _, _ = await expect_embed(broker)
        await broker.error(request_id, Failure(Code.CONTEXT_LENGTH_EXCEEDED, "inputs[0] has 9 tokens", "inputs[0]"))
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[0]")
        assert answer.json()["error"]["message"] == "input[0] has 9 tokens"

        for broken in ({"vectors": b"", "size": 1, "prompt_tokens": 1}, final | {"prompt_tokens": None}):
            asking = ask("/v1/embeddings", input=["a", "b"])
            request_id, _, _ = await expect_embed(broker)
            await broker.final(request_id, broken)
            assert (await asking).status_code == 500

        assert (await ask("/v1/embeddings", input="")).json()["error"]["param"] == "input"
