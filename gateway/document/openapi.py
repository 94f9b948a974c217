"""The endpoint table -> an OpenAPI 3.1 document: one operation for each method of a path, and nothing of any settings.

Rows that a header tells apart are one operation, with the answers and errors of both.
"""

import inspect
import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from broker.wire.failure import Code
from gateway.core.failure import IGNORED_HEADER
from gateway.document.failures import failures, failures_named_in
from gateway.document.schemas import JSON, Object, Schemas, any_of
from gateway.http.endpoints import Endpoint, Guard

VERSION = "3.1.1"

_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_RAISES = re.compile(r"\s*\bRaises (?:FailureError|HTTPException)[^.]*\.")
_SCHEMES: dict[str, Object] = {
    "api_key": {
        "type": "http",
        "scheme": "bearer",
        "description": "The key of MLX_BROKER_API_KEY. None is needed where it is not set.",
    },
    "x_api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key where clients of Anthropic's API send it.",
    },
    "admin_token": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of MLX_BROKER_ADMIN_TOKEN. None is needed where it is not set.",
    },
    "x_admin_token": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same token in the header x-api-key.",
    },
}
_SECURITY: dict[Guard, list[Object]] = {
    Guard.OPEN: [],
    Guard.KEY: [{"api_key": []}, {"x_api_key": []}],
    # What changes models beside administration: the admin's token, or the key where there is none.
    Guard.CHANGE: [{"admin_token": []}, {"x_admin_token": []}, {"api_key": []}, {"x_api_key": []}],
    Guard.ADMIN: [{"admin_token": []}, {"x_admin_token": []}],
}
_MODEL = "`name` or `org/name`; the slash may be sent as it is or as %2F."
_IGNORED = {
    "description": "The parts of the request that the answer does without, if there are any.",
    "schema": {"type": "string"},
}


def openapi(endpoints: Sequence[Endpoint]) -> Object:
    """The document of these rows."""
    schemas = Schemas(_models(endpoints))
    paths: dict[str, Object] = {}
    for rows in _operations(endpoints):
        path = _PARAMETER.sub(r"{\1}", rows[0].path)
        paths.setdefault(path, {})[rows[0].method.lower()] = _operation(rows, schemas)
    responses = failures_named_in(paths, endpoints, schemas)
    return {
        "openapi": VERSION,
        "info": {
            "title": "mlx-broker",
            "version": "1",
            "summary": "Many MLX models behind the APIs that clients already speak.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Not "/": a proxy may serve the gateway below a path.
        "servers": [{"url": ".", "description": "Beside this document."}],
        "tags": [{"name": name} for name in dict.fromkeys(row.dialect.name for row in endpoints)],
        "paths": paths,
        "components": {
            "schemas": schemas.behind([paths, responses]),
            "responses": responses,
            "securitySchemes": _SCHEMES,
        },
    }


def operation_id(endpoint: Endpoint) -> str:
    """`post_v1_chat_completions`: the method and the words of the path."""
    words = re.findall(r"\w+", _PARAMETER.sub(r"\1", endpoint.path)) or ["root"]
    return "_".join([endpoint.method.lower(), *words])


def _models(endpoints: Iterable[Endpoint]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {}
    for row in endpoints:
        events = row.stream.events if row.stream else ()
        others = dict(row.others).values()
        for model in (row.query, row.body, row.answer, *row.answers, row.dialect.error_answer, *events, *others):
            if model is not None:
                found[model] = None
    return list(found)


def _operations(endpoints: Sequence[Endpoint]) -> Iterable[Sequence[Endpoint]]:
    """The rows of each method of each path, the one that takes every request first."""
    groups: dict[tuple[str, str], list[Endpoint]] = {}
    for row in endpoints:
        groups.setdefault((row.path, row.method), []).append(row)
    return (sorted(rows, key=lambda row: not row.is_general) for rows in groups.values())


def _operation(rows: Sequence[Endpoint], schemas: Schemas) -> Object:
    first = rows[0]
    summary, description = _words(first)
    operation: Object = {
        "operationId": operation_id(first),
        "tags": [row.dialect.name for row in rows],
        "summary": summary,
        "parameters": [one for row in rows for one in _parameters(row, schemas)] + _path_parameters(first),
        "responses": {"200": _success(rows, schemas)} if any(map(_can_succeed, rows)) else {},
        "security": _SECURITY[first.guard],
    }
    if description:
        operation["description"] = description
    if bodies := [schemas.of(row.body) for row in rows if row.body is not None]:
        operation["requestBody"] = {"required": True, "content": {first.media: {"schema": any_of(bodies)}}}
    operation["responses"] |= failures(rows, schemas)
    return operation


def _words(endpoint: Endpoint) -> tuple[str, str]:
    """The first sentence of the handler's docstring, and what follows without the exceptions."""
    text = " ".join((inspect.getdoc(endpoint.handler) or endpoint.handler.__name__).split())
    summary, _, rest = _RAISES.sub("", text).strip().partition(". ")
    return summary.removesuffix("."), rest


def _can_succeed(endpoint: Endpoint) -> bool:
    return Code.NOT_IMPLEMENTED not in endpoint.failures


def _path_parameters(endpoint: Endpoint) -> list[Object]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            **({"description": _MODEL} if name == "model_id" else {}),
        }
        for name, _ in _PARAMETER.findall(endpoint.path)
    ]


def _parameters(endpoint: Endpoint, schemas: Schemas) -> list[Object]:
    """Those in the query, and the header that tells the rows of a path apart."""
    fields = schemas.fields(endpoint.query) if endpoint.query is not None else {}
    only = f"Only with the header {endpoint.header}. " if endpoint.header else ""
    parameters = [
        {
            "name": name,
            "in": "query",
            "description": only + field.get("description", ""),
            "schema": {word: value for word, value in field.items() if word != "description"},
        }
        for name, field in fields.items()
    ]
    if endpoint.header:
        words = f"With it the answer has the form of {endpoint.dialect.name}."
        parameters.insert(
            0, {"name": endpoint.header, "in": "header", "description": words, "schema": {"type": "string"}}
        )
    return parameters


def _success(rows: Sequence[Endpoint], schemas: Schemas) -> Object:
    content: Object = {}
    if answers := [schemas.of(form) for row in rows for form in (row.answer, *row.answers) if form is not None]:
        content[JSON] = {"schema": any_of(answers)}
    for row in rows:
        if (stream := row.stream) is not None:
            content[stream.media] = {
                "schema": {"description": stream.about},  # of the whole to some readers, of an event to others
                "x-events": any_of([schemas.of(event) for event in stream.events]),
                "x-endless": stream.is_endless,
            }
        for media in row.text:
            content[media] = {"schema": {"type": "string"}}
        for media in row.binary:
            content[media] = {"schema": {"type": "string", "format": "binary"}}
    success: Object = {"description": _words(rows[0])[0]}
    if any(row.body is not None for row in rows):
        success["headers"] = {IGNORED_HEADER: _IGNORED}
    return success | ({"content": content} if content else {})
