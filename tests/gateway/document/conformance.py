"""Cases made of the document by schemathesis: what the gateway answers to each must be what the document says."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import hypothesis
import jsonschema_rs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.specs.openapi import checks

from gateway.app import ENDPOINTS
from gateway.document.openapi import openapi

DOCUMENT: dict[str, Any] = openapi(ENDPOINTS)
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
SECONDS = 20
_LENGTHS = {"max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"}
_LONGEST = 64
# Statuses of failures that are none of the gateway's own, beyond 499.
NOT_OURS = (501, 502, 503)


class Conformance:
    """Sends so many cases to the gateway at `url`. models: names that take the place of made ones in half of the
    cases, as nearly all made ones are of models that nobody has."""

    def __init__(self, url: str, models: Sequence[str]) -> None:
        self.statuses: dict[int, int] = {}
        self._url = url
        self._models = models
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def check(self, operation_id: str, cases: int, models: Sequence[str] = ()) -> None:
        """Half of them as the document has it, half of them wrong in some way. models: other names for this one."""
        operation = _operation(operation_id)
        right = operation.as_strategy(GenerationMode.POSITIVE).map(lambda case: (case, True))
        wrong = operation.as_strategy(GenerationMode.NEGATIVE).map(lambda case: (case, False))
        strategy = st.one_of(right, wrong) if _can_be_wrong(operation_id) else right

        @hypothesis.settings(
            max_examples=cases,
            database=None,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        @hypothesis.given(made=strategy, model=st.sampled_from(models or self._models), is_named=st.booleans())
        def one(made: tuple[Case[Any], bool], model: str, is_named: bool) -> None:
            case, is_right = made
            if is_right:  # what is wrong must stay so
                if is_named:
                    _name(case, model)
                _shorten(case.body)
            self._send(case)

        one()

    def _send(self, case: Case[Any]) -> None:
        response = case.call(base_url=self._url, session=self._session, timeout=SECONDS)
        status = response.status_code
        self.statuses[status] = self.statuses.get(status, 0) + 1
        said = f"{case.as_curl_command()}\n{status} {response.text[:2000]}"
        assert status < 500 or status in NOT_OURS or _may_fail(case, response), said
        # Parameters of the one form of the list are nothing to the other.
        refuses = [] if case.operation.path == "/v1/models" else [checks.negative_data_rejection]
        case.validate_response(response, checks=[*CHECKS, *refuses])
        if status == 200:
            media = response.headers.get("content-type", [""])[0]
            check_events(case.operation.method, case.operation.path, media, response.text)


def check_events(method: str, path: str, media: str, text: str) -> None:
    """Every piece of a stream must be one of those that the document names. media: the type of the stream."""
    kind = media.partition(";")[0]
    content = DOCUMENT["paths"][path][method.lower()]["responses"].get("200", {}).get("content", {})
    if "x-events" in content.get(kind, {}):
        valid = _validator(json.dumps(content[kind]["x-events"]))
        for event in _events(kind, text):
            assert valid.is_valid(event), f"{method} {path} has sent what is no event of the document: {event}"


def _events(media: str, text: str) -> Iterator[Any]:
    lines = text.split("\n")
    if media == "application/x-ndjson":
        yield from (json.loads(line) for line in lines if line)
    else:
        data = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))
        yield from (json.loads(piece) for piece in data if piece != "[DONE]")


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({**json.loads(schema), "components": DOCUMENT["components"]})


@cache
def _schema() -> Any:
    return schemathesis.openapi.from_dict(DOCUMENT)


@cache
def _operation(operation_id: str) -> Any:
    return _schema().find_operation_by_id(operation_id)


def _can_be_wrong(operation_id: str) -> bool:
    """What is wrong as JSON may be right in a form, where every value is a text."""
    operation = _operation(operation_id)
    is_form = any(body.media_type == "multipart/form-data" for body in operation.body)
    return bool(operation.body or operation.query) and not is_form


def _may_fail(case: Case[Any], response: Response) -> bool:
    """Loading answers every failure with 500, as its contract has it."""
    return case.operation.path.startswith("/admin/models/load/") and "detail" in response.json()


def _shorten(body: Any) -> None:
    """A model without an end of its own would answer for hours."""
    holders = [body, body.get("options")] if isinstance(body, dict) else []
    for holder in holders:
        if isinstance(holder, dict):
            for name in _LENGTHS & holder.keys():
                if type(holder[name]) in (int, float) and _LONGEST < holder[name] < 2**63:
                    holder[name] = _LONGEST


def _name(case: Case[Any], model: str) -> None:
    if isinstance(case.body, dict):
        case.body["model"] = model
    if "model_id" in (case.path_parameters or {}):
        case.path_parameters["model_id"] = model
