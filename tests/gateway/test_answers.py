"""The models of answers in the endpoint table are those of the real answers, at every endpoint that has one."""

import struct
from typing import Any

import pytest

from broker.wire.failure import Code
from gateway.app import ENDPOINTS
from gateway.http.endpoints import Endpoint
from tests.gateway.http.test_gateway import STATUS
from tests.gateway.played_broker import ending
from tests.gateway.running import MODEL
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

LIKELY = {"token": "A", "bytes": b"A", "logprob": -0.5}
RICH = {
    **ending("A", "tool_calls"),
    "reasoning": "hm",
    "tool_calls": [{"id": "call_1", "name": "f", "arguments": "{}"}],
    "logprobs": [{**LIKELY, "top": [LIKELY]}],
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 1}
TOLD = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
LOADED = {"model_id": "a", "model_type": "text-gen", "size_bytes": 2**29, "pinned": True}
FLOATS = struct.pack("<2f", 0.25, 0.5)
RANK = {"query": "q", "documents": ["a", "b"], "return_documents": True}
SEGMENT = {"id": 0, "start": 0.0, "end": 1.0, "text": " One.", "words": [{"word": " One.", "start": 0.0, "end": 1.0}]}
HEARD = {"text": " One.", "segments": [SEGMENT], "language": "en", "duration": 1.5, "completion_tokens": 2}
WORDS = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}

# Path -> (body of a request, what the link answers); several where answers have several forms.
CASES: dict[str, list[tuple[dict[str, Any] | None, dict[str, Any]]]] = {
    "/v1/chat/completions": [(CHAT, RICH), (CHAT, ending("A"))],
    "/chat/completions": [(CHAT, RICH)],
    "/v1/completions": [
        ({"prompt": "Hi", "logprobs": 1}, {**ending("A"), "logprobs": RICH["logprobs"]}),
        ({"prompt": "Hi"}, ending("A", "length")),
    ],
    "/v1/responses": [({"input": "Hi"}, RICH), ({"input": "Hi"}, ending("A", "length"))],
    "/v1/messages": [(TOLD, RICH), (TOLD, ending("A", "length"))],
    "/v1/messages/count_tokens": [({"messages": CHAT["messages"]}, {"prompt_tokens": 5})],
    "/v1/embeddings": [
        ({"input": "a"}, {"vectors": FLOATS, "size": 2, "prompt_tokens": 3}),
        ({"input": "a", "encoding_format": "base64"}, {"vectors": FLOATS, "size": 2, "prompt_tokens": 3}),
    ],
    "/v1/rerank": [(RANK, {"scores": FLOATS, "prompt_tokens": 3})],
    "/v1/audio/transcriptions": [({}, HEARD), (WORDS, HEARD)],
    "/v1/audio/translations": [({}, HEARD), ({"response_format": "verbose_json"}, HEARD)],
    "/v1/audio/voices": [(None, {"voices": ["anna"]})],
    "/v1/models": [(None, {"models": [MODEL]})],
    "/models": [(None, {"models": [MODEL]})],
    "/v1/models/{model_id:path}": [(None, {"models": [{**MODEL, "model_id": "a", "quantization": None}]})],
    "/openapi.json": [(None, {})],
    "/health": [(None, STATUS)],
    "/admin/health": [(None, STATUS)],
    "/admin/models/status": [(None, STATUS)],
    "/admin/models/load/{model_id:path}": [(None, LOADED)],
    "/admin/models/pull/{model_id:path}": [(None, {"model_id": "a", "size_bytes": 2**20})],
    "/admin/models/{model_id:path}": [(None, {"model_id": "a"})],
    "/admin/models/unload/{model_id:path}": [(None, {"model_id": "a"})],
    "/admin/models/kill/{model_id:path}": [(None, {"model_id": "a", "pid": 7})],
    "/admin/models/reload/{model_id:path}": [(None, LOADED)],
    "/admin/models/unpin/{model_id:path}": [(None, {"model_id": "a"})],
}
BROKEN = {"model_id": "bad", "path": "/models/bad", "reason": "it has no weights"}
CATALOG = {
    "models": [{**MODEL, "pinned": True}],
    "broken": [BROKEN],
    "folders": [{"path": "/models", "exists": True}],
}
REREAD = {"applied": ["max_models"], "at_next_load": ["a"], "needs_restart": []}
BROKER = {"version": "1", "pid": 7, "started_at": 1.5, "has_metal": None, "settings": {"max_models": 4}}
CASES |= {
    "/admin/models": [(None, CATALOG)],
    "/admin/models/cancel/{model_id:path}": [(None, {"model_id": "a"})],
    "/admin/models/pin/{model_id:path}": [(None, {"model_id": "a"})],
    "/admin/version": [(None, BROKER)],
    "/admin/settings": [(None, BROKER)],
    "/admin/settings/reload": [(None, REREAD)],
    "/admin/cache/forget": [(None, {"model_id": None})],
    "/admin/cache/forget/{model_id:path}": [(None, {"model_id": "a"})],
}
NAMED = {"model": "org/tiny"}
CASES |= {
    "/api/chat": [
        ({**CHAT, "stream": False}, RICH),
        ({**CHAT, "stream": False, "logprobs": False}, ending("A")),
        (NAMED, LOADED),
    ],
    "/api/generate": [
        ({"prompt": "Hi", "stream": False, "logprobs": True}, {**RICH, "tool_calls": []}),
        (NAMED, LOADED),
    ],
    "/api/embed": [({"input": ["a"]}, {"vectors": FLOATS, "size": 2, "prompt_tokens": 3}), (NAMED, LOADED)],
    "/api/embeddings": [({"prompt": "a"}, {"vectors": FLOATS, "size": 2, "prompt_tokens": 3})],
    "/api/show": [(NAMED, {"models": [MODEL]})],
    "/api/tags": [(None, {"models": [MODEL]})],
    "/api/ps": [(None, {**STATUS, "models": []})],
    "/api/pull": [({**NAMED, "stream": False}, {"model_id": "org/tiny", "size_bytes": 1})],
    "/api/version": [(None, {})],
}
WITH_ANSWER = [endpoint for endpoint in ENDPOINTS if endpoint.answer is not None]


def test_every_endpoint_with_an_answer_has_a_case() -> None:
    assert {endpoint.path for endpoint in WITH_ANSWER} == CASES.keys()
    without = [
        row for row in ENDPOINTS if row.answer is None and row.stream is None and not row.text and not row.binary
    ]
    assert {row.path for row in without if row.failures != (Code.NOT_IMPLEMENTED,)} == {"/api/delete"}


@pytest.mark.parametrize(
    "endpoint", WITH_ANSWER, ids=lambda endpoint: f"{endpoint.path} {endpoint.header or ''}".rstrip()
)
async def test_a_real_answer_is_one_of_its_model(endpoint: Endpoint) -> None:
    assert endpoint.answer is not None
    for body, final in CASES[endpoint.path]:
        async with served(ScriptedLink([final])) as client:
            path = endpoint.path.replace("{model_id:path}", "a")
            headers = {endpoint.header: "1"} if endpoint.header else {}
            is_form = endpoint.media == "multipart/form-data"
            sent: dict[str, Any] = {"data": body, "files": {"file": b"a"}} if is_form else {"json": body}
            answer = await client.request(endpoint.method, path, **sent, headers=headers)
            assert answer.status_code == 200, answer.text
            is_other = body is not None and body.get("response_format") == "verbose_json"
            form = endpoint.answers[0] if is_other else endpoint.answer
            form.model_validate_json(answer.content)
            body = {"file": 1, **(body or {})} if is_form else body  # noqa: PLW2901 # as its model reads it
            if body is not None:
                assert endpoint.body is not None
                endpoint.body.model_validate(body)
