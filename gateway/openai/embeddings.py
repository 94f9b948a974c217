"""POST /v1/embeddings and /v1/rerank: one unit of work each, whatever the number of texts in it."""

import base64
import secrets
import sys
from array import array
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.body import ProtocolError
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import pack
from broker.wire.work import Embed, Rerank
from gateway.http.errors import Json
from gateway.http.inference import State, model_for, read_body
from gateway.http.streaming import collect
from gateway.openai.inputs import RerankRequest, embedding_work, parse_embedding, parse_rerank, rerank_work

_FLOAT_BYTES = 4


async def embeddings(request: Request[State]) -> Response:
    """One vector per input, in their order."""
    wanted = parse_embedding(await read_body(request))
    model = model_for(request, wanted.model)
    final = await _finish(request, model, embedding_work(wanted), "embed")
    encode = _as_base64 if wanted.encoding_format == "base64" else floats_of
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors_of(final, len(wanted.input)))
    ]
    return Json({"object": "list", "data": data, "model": model, "usage": _usage(final)})


async def rerank(request: Request[State]) -> Response:
    """The documents by their scores, best first."""
    wanted = parse_rerank(await read_body(request))
    model = model_for(request, wanted.model)
    final = await _finish(request, model, rerank_work(wanted), "rerank")
    head = {"id": f"rerank-{secrets.token_hex(12)}", "object": "list", "model": model}
    return Json({**head, "results": ranked(wanted, scores_of(final, len(wanted.documents))), "usage": _usage(final)})


def vectors_of(final: dict[str, Any], count: int) -> list[bytes]:
    """The packed vectors of an `Embed`'s FINAL. Raises ProtocolError where they are not `count`."""
    packed, size = final.get("vectors"), final.get("size")
    if type(packed) is not bytes or type(size) is not int or size < 1 or len(packed) != count * size * _FLOAT_BYTES:
        raise ProtocolError(f"FINAL without {count} vectors")
    step = size * _FLOAT_BYTES
    return [packed[start : start + step] for start in range(0, len(packed), step)]


def scores_of(final: dict[str, Any], count: int) -> list[float]:
    """The scores of a `Rerank`'s FINAL. Raises ProtocolError where they are not `count`."""
    packed = final.get("scores")
    if type(packed) is not bytes or len(packed) != count * _FLOAT_BYTES:
        raise ProtocolError(f"FINAL without {count} scores")
    return floats_of(packed)


def ranked(wanted: RerankRequest, scores: list[float]) -> list[dict[str, Any]]:
    """The `top_n` best documents, best first; of equal ones the earlier is first."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: wanted.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    if wanted.return_documents:
        for result in results:
            result["document"] = {"text": wanted.documents[result["index"]]}
    return results


def floats_of(packed: bytes) -> list[float]:
    """Little-endian float32 -> numbers."""
    values = array("f", packed)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _as_base64(packed: bytes) -> str:
    return base64.b64encode(packed).decode()


async def _finish(request: Request[State], model: str, work: Embed | Rerank, task: str) -> dict[str, Any]:
    call = await request.state["broker"].call(InferenceRequest(model, pack(work), task))
    [final] = await collect(call, request.receive)
    return final


def _usage(final: dict[str, Any]) -> dict[str, int]:
    tokens = final.get("prompt_tokens")
    if type(tokens) is not int:
        raise ProtocolError(f"FINAL whose prompt_tokens is {tokens!r}")
    return {"prompt_tokens": tokens, "total_tokens": tokens}
