"""Requests for embeddings and scores -> messages of the wire. Pure."""

from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from broker.wire.failure import invalid
from broker.wire.work import Embed, Rerank
from gateway.core.sampling import MAX_INT
from gateway.core.shapes import Prompts
from gateway.core.validation import WHOLE, RequestBody, example, object_of, prompts_of, refuse_not_yet, validated

MAX_INPUTS = 2048  # of one request, as OpenAI has it


class EmbeddingRequest(RequestBody):
    """The body of POST /v1/embeddings."""

    model_config = example({"input": ["a cat", "a dog"]})

    model: Annotated[str, Field(min_length=1)] | None = None
    input: Annotated[list[str | list[int]], PlainValidator(prompts_of, json_schema_input_type=Prompts)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None


class RerankRequest(RequestBody):
    """The body of POST /v1/rerank, as Cohere and Jina have it. None is the default, as if the field were not there."""

    model_config = example({"query": "What purrs?", "documents": ["a cat", "a dog"], "top_n": 1})

    model: Annotated[str, Field(min_length=1)] | None = None
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None
    return_documents: bool | None = None


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Raises FailureError `invalid_request` naming the field."""
    request = validated(EmbeddingRequest, object_of(body))
    if len(request.input) > MAX_INPUTS:
        raise invalid(f"{len(request.input)} inputs in one request, at most {MAX_INPUTS} are served", "input")
    return request


def embedding_work(request: EmbeddingRequest) -> Embed:
    """One unit of work for all inputs: the worker forms its own batches."""
    return Embed(inputs=request.input, dimensions=request.dimensions)


def parse_rerank(body: bytes) -> RerankRequest:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    refuse_not_yet(raw, {"instruction": ()})  # of mlx_vlm.server, for generative rerankers
    return validated(RerankRequest, raw)


def rerank_work(request: RerankRequest) -> Rerank:
    """One unit of work for all documents."""
    return Rerank(query=request.query, documents=request.documents)
