import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.wire.failure import Code, Failure
from gateway.admin.dialect import ADMIN
from gateway.core.failure import STATUS, in_words_of
from gateway.core.served import Served
from gateway.http.endpoints import Endpoint, Guard
from gateway.http.errors import error_response
from gateway.openai.dialect import OPENAI
from gateway.settings import Settings
from tests.gateway.played_broker import ending
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink


def test_every_code_has_a_status() -> None:
    assert STATUS.keys() == set(Code)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("context_length_exceeded", 400, "invalid_request_error"),
        ("invalid_api_key", 401, "authentication_error"),
        ("foreign_origin", 403, "permission_error"),
        ("not_found", 404, "invalid_request_error"),
        ("model_not_found", 404, "invalid_request_error"),
        ("not_loaded", 404, "invalid_request_error"),
        ("method_not_allowed", 405, "invalid_request_error"),
        ("drain_timeout", 409, "invalid_request_error"),
        ("request_too_large", 413, "invalid_request_error"),
        ("load_failed", 422, "invalid_request_error"),
        ("rate_limit_exceeded", 429, "rate_limit_error"),
        ("cancelled", 499, "invalid_request_error"),
        ("internal_error", 500, "server_error"),
        ("insufficient_memory", 503, "server_error"),
        ("model_unavailable", 503, "server_error"),
        ("broker_unavailable", 503, "server_error"),
        ("worker_died", 503, "server_error"),
    ],
)
def test_statuses_and_types(code: str, status: int, kind: str) -> None:
    response = error_response(OPENAI, Failure(Code(code), "why", "field", retryable=True))
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "why", "type": kind, "param": "field", "code": code, "retryable": True}
    }
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (30, "30")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    response = error_response(OPENAI, Failure(Code.MODEL_UNAVAILABLE, "why", retry_after=seconds))
    assert response.headers["retry-after"] == header


def test_administration_answers_with_a_detail() -> None:
    response = error_response(ADMIN, Failure(Code.LOAD_FAILED, "no weights"), 500)
    assert response.status_code == 500
    assert json.loads(bytes(response.body)) == {"detail": "no weights"}
    assert error_response(ADMIN, Failure(Code.NOT_LOADED, "-")).status_code == 404
    assert error_response(ADMIN, Failure(Code.DRAIN_TIMEOUT, "-")).status_code == 409


def test_a_failure_speaks_the_clients_words() -> None:
    def names(field: str) -> str:
        return {"json_schema": "response_format"}.get(field, field)

    told = in_words_of(names, Failure(Code.INVALID_REQUEST, "json_schema: json_schema is odd", "json_schema"))
    assert told == Failure(Code.INVALID_REQUEST, "response_format: json_schema is odd", "response_format")
    unnamed = Failure(Code.WORKER_DIED, "SIGKILL", retryable=True)
    assert in_words_of(names, unnamed) == unnamed


@pytest.mark.anyio
async def test_a_line_end_in_a_path_leads_to_no_other_place() -> None:
    gone = Failure(Code.NOT_LOADED, "Model not loaded")
    settings = Settings(port=0, default_model="org/tiny", admin_token=SecretStr("token"))
    async with served(ScriptedLink([ending()], gone), settings) as client:
        assert (await client.post("/admin/models/kill/a%0Ab")).status_code == 401
        client.headers["authorization"] = "Bearer token"
        answer = await client.post("/admin/models/kill/a%0Ab")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Model not loaded"})
        assert (await client.get("/admin/nothing%0A")).json().keys() == {"detail"}
        assert (await client.get("/models%0A")).status_code == 404


class Boom(Response):
    """Fails, before or after it has begun."""

    def __init__(self, *, begins: bool) -> None:
        super().__init__()
        self._begins = begins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise ValueError("boom")


@pytest.mark.anyio
async def test_a_bug_is_answered_recorded_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Pages of allowed origins can read that answer too. What has begun is cut off."""

    async def handler(request: Request[Any]) -> Response:
        return Boom(begins="begins" in request.query_params)

    row = Endpoint(method="GET", path="/boom", handler=handler, guard=Guard.OPEN, dialect=OPENAI)
    records: list[Served] = []
    settings = Settings(port=0, default_model="org/tiny", allowed_origins=["http://page"])
    async with served(ScriptedLink([]), settings, [row], observers=[records.append]) as client:
        answer = await client.get("/boom", headers={"origin": "http://page"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert answer.headers["connection"] == "close"
        assert answer.headers["access-control-allow-origin"] == "http://page"
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/boom?begins")
    assert [(one.status, one.outcome) for one in records] == [(500, "internal_error"), (200, "internal_error")]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["boom", "boom"]
