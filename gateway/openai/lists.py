"""Vectors, scores and models -> entries of OpenAI's lists. Pure."""

import base64

from gateway.core.administration import gib
from gateway.core.answer import Vectors, floats_of
from gateway.core.names import Listed
from gateway.openai.calls import Object
from gateway.openai.inputs import RerankRequest


def embedding_entries(vectors: Vectors, *, as_base64: bool) -> list[Object]:
    """One for each input, in their order."""
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector).decode() if as_base64 else floats_of(vector),
        }
        for index, vector in enumerate(vectors.split())
    ]


def ranked(wanted: RerankRequest, scores: list[float]) -> list[Object]:
    """The `top_n` best documents, best first; of equal ones the earlier is first."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: wanted.top_n]
    results: list[Object] = []
    for index in best:
        document = {"document": {"text": wanted.documents[index]}} if wanted.return_documents else {}
        results.append({"index": index, "relevance_score": scores[index], **document})
    return results


def input_usage(prompt_tokens: int) -> Object:
    """For work that writes no text."""
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}


def model_entry(listed: Listed) -> Object:
    """OpenAI's model; fields beside OpenAI's are this project's."""
    model = listed.model
    owner, slash, _name = model.model_id.partition("/")
    return {
        "id": listed.name,
        "object": "model",
        "created": int(model.created),
        "owned_by": owner if slash else "local",
        "model_type": model.model_type,
        "size_gb": gib(model.size_bytes),
        "quantization": model.quantization,
        "context_length": model.context_length or None,
        "capabilities": model.capabilities,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "state": model.state,
        **({"alias_of": model.model_id} if listed.is_alias else {}),
    }
