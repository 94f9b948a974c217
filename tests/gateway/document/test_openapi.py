"""The document of the API: every row of the endpoint table and nothing else, valid by the schema of OpenAPI 3.1."""

import re
from typing import Any

import jsonschema_rs
import pytest
from pydantic import SecretStr

from broker.wire.failure import Code
from gateway.app import ENDPOINTS
from gateway.core.failure import STATUS
from gateway.document.openapi import openapi
from gateway.http.endpoints import Endpoint, Guard
from gateway.settings import Settings
from tests.gateway.document.answering import AnsweringLink
from tests.gateway.played_broker import ending
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

DOCUMENT: dict[str, Any] = openapi(ENDPOINTS)
OPERATIONS = {(method, path): found for path, item in DOCUMENT["paths"].items() for method, found in item.items()}


def place_of(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.method.lower(), endpoint.path.replace(":path}", "}")


def references_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*map(references_in, value.values()))
    return set[str]().union(*map(references_in, value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module")
def of_openapi() -> jsonschema_rs.Validator:
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR  # which takes half a second

    return OPENAPI_31_VALIDATOR


def test_it_is_valid(of_openapi: jsonschema_rs.Validator) -> None:
    of_openapi.validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_a_wrong_document_is_not_valid(of_openapi: jsonschema_rs.Validator) -> None:
    wrong = {**DOCUMENT, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    assert not of_openapi.is_valid(wrong)


def test_it_has_every_row_and_nothing_else() -> None:
    assert OPERATIONS.keys() == {place_of(endpoint) for endpoint in ENDPOINTS}


def test_every_operation_has_an_id_of_its_own_a_summary_and_the_names_of_its_dialects() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert tags == {endpoint.dialect.name for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        operation = OPERATIONS[place_of(endpoint)]
        assert endpoint.dialect.name in operation["tags"]
        assert operation["summary"][-1] not in ".,:"
        assert "FailureError" not in operation["summary"] + operation.get("description", "")


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    references = references_in(DOCUMENT)
    for reference in references:
        found = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    components = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]
    }
    assert components - references == set()


@pytest.mark.parametrize(
    "endpoint",
    ENDPOINTS,
    ids=lambda endpoint: f"{endpoint.method} {endpoint.path} {endpoint.header or endpoint.accept}",
)
def test_what_a_row_says_is_in_its_operation(endpoint: Endpoint) -> None:
    operation = OPERATIONS[place_of(endpoint)]
    parameters = {(one["in"], one["name"]) for one in operation["parameters"]}
    if endpoint.query is not None:
        assert {("query", name) for name in endpoint.query.model_fields} <= parameters
    if endpoint.header is not None:
        assert ("header", endpoint.header) in parameters
    assert ("requestBody" in operation) == (endpoint.body is not None)
    assert ("200" in operation["responses"]) != (Code.NOT_IMPLEMENTED in endpoint.failures)
    content = operation["responses"].get("200", {}).get("content", {})
    assert ("application/json" in content) or endpoint.answer is None
    if endpoint.stream is not None:
        assert content[endpoint.stream.media]["x-events"]
    assert {*endpoint.text, *endpoint.binary} <= content.keys()
    if endpoint.body is not None:
        assert [*operation["requestBody"]["content"]] == [endpoint.media]
    statuses = {*operation["responses"]}
    assert {str(STATUS[code]) for code in endpoint.failures} <= statuses
    assert "500" in statuses
    assert ("401" in statuses) == bool(operation["security"]) == (endpoint.guard is not Guard.OPEN)


def test_every_bound_of_a_field_is_in_its_schema() -> None:
    """A bound that pydantic checks behind a validator is in no schema."""
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    found = 0
    for model in {model for row in ENDPOINTS for model in (row.body, row.query) if model is not None}:
        schema = model.model_json_schema(by_alias=False)["properties"]
        for name, field in model.model_fields.items():
            for bound in re.findall(r"\b(ge|gt|le|lt)=", f"{field.annotation} {field.metadata}"):
                found += 1
                assert f"'{words[bound]}'" in str(schema[name]), f"{model.__name__}.{name}"
    assert found > 100


def test_two_rows_of_one_path_are_one_operation() -> None:
    models = OPERATIONS["get", "/v1/models"]
    assert models["tags"] == ["OpenAI", "Anthropic"]
    schema = models["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("ModelList", "ModelPage")]}
    assert len(models["responses"]["401"]["content"]["application/json"]["schema"]["anyOf"]) == 2


@pytest.mark.anyio
async def test_every_body_has_an_example_that_is_answered() -> None:
    bodies = [row for row in ENDPOINTS if row.body is not None]
    async with served(AnsweringLink()) as client:
        for row in bodies:
            assert row.body is not None
            [body] = row.body.model_json_schema()["examples"]
            if row.media == "multipart/form-data":
                file = {"file": body.pop("file").encode()}
                answer = await client.request(row.method, row.path, data=body, files=file)
            else:
                answer = await client.request(row.method, row.path, json=body)
            assert answer.status_code == 200, f"{row.path}: {answer.text}"
    assert len(bodies) > 14


@pytest.mark.anyio
async def test_it_is_served_without_a_key_and_without_settings() -> None:
    settings = Settings(
        port=0,
        default_model="org/hidden-default",
        api_key=SecretStr("hidden-key"),
        admin_token=SecretStr("hidden-token"),
        allowed_origins=["https://hidden.example"],
        metrics_open=True,
    )
    async with served(ScriptedLink([ending()]), settings) as client:
        answer = await client.get("/openapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == DOCUMENT
        assert "hidden" not in answer.text
        again = await client.get("/openapi.json", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "304" in OPERATIONS["get", "/openapi.json"]["responses"]
