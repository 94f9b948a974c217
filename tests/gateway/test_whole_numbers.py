"""One rule for whole numbers in every body: 2.0 is 2, and 1.5 is none."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gateway.app import ENDPOINTS

WHOLE = [
    (endpoint.body, name)
    for endpoint in ENDPOINTS
    if endpoint.body is not None and endpoint.path.startswith("/v1")
    for name, field in endpoint.body.model_json_schema()["properties"].items()
    if any(form.get("type") == "integer" for form in field.get("anyOf", [field]))
]


def errors_of(body: type[BaseModel], name: str, value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        body.model_validate({"model": 7, name: value})
    return [error["type"] for error in caught.value.errors() if error["loc"][0] == name]


def test_every_body_has_the_one_rule() -> None:
    assert {name for _, name in WHOLE} >= {"max_tokens", "seed", "n", "top_k", "dimensions", "top_n", "top_logprobs"}
    for body, name in WHOLE:
        assert errors_of(body, name, 2.0) == errors_of(body, name, 2) == [], name
        assert errors_of(body, name, 1.5), name
        assert errors_of(body, name, "2"), name


def test_none_is_too_large_to_be_written() -> None:
    for body, name in WHOLE:
        assert errors_of(body, name, 1e30), name
