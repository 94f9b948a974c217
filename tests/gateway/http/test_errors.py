import json

import pytest

from broker.wire.failure import Code, Failure
from gateway.http.errors import ApiError, error_response, failure_of, invalid


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("context_length_exceeded", 400, "invalid_request_error"),
        ("invalid_api_key", 401, "authentication_error"),
        ("model_not_found", 404, "invalid_request_error"),
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
    response = error_response("/v1/chat/completions", ApiError(Failure(Code(code), "why", "field", retryable=True)))
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "why", "type": kind, "param": "field", "code": code, "retryable": True}
    }
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (30, "30")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    response = error_response("/v1/models", ApiError(Failure(Code.MODEL_UNAVAILABLE, "why", retry_after=seconds)))
    assert response.headers["retry-after"] == header


def test_admin_paths_answer_with_a_detail() -> None:
    response = error_response("/admin/models/load/a", ApiError(Failure(Code.LOAD_FAILED, "no weights"), status=500))
    assert response.status_code == 500
    assert json.loads(bytes(response.body)) == {"detail": "no weights"}
    assert error_response("/admin/x", ApiError(Failure(Code.NOT_LOADED, "-"))).status_code == 404
    assert error_response("/admin/x", ApiError(Failure(Code.DRAIN_TIMEOUT, "-"))).status_code == 409


def test_an_error_body_that_cannot_be_read_is_an_error() -> None:
    assert failure_of({"code": "cancelled", "message": "m"}) == Failure(Code.CANCELLED, "m")
    assert failure_of({"message": 1}).code == "internal_error"


def test_a_mistake_names_its_field() -> None:
    assert invalid("no", "n").failure == Failure(Code.INVALID_REQUEST, "no", "n")
