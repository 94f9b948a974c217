"""The endpoint table -> an OpenAPI 3.1 document: one operation for each method of a path, and nothing of any settings.

Rows that a header tells apart are one operation, with the answers and errors of both.
"""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from broker.wire.failure import Code
from gateway.core.failure import IGNORED_HEADER, STATUS
from gateway.document.schemas import Schemas, names_in
from gateway.http.endpoints import Endpoint, Guard

VERSION = "3.1.1"
JSON = "application/json"

Object = dict[str, Any]

_RESPONSES = "#/components/responses/"
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_RAISES = re.compile(r"\s*\bRaises (?:FailureError|HTTPException)[^.]*\.")
# What any request can end with, one with a body, and one that a guard may refuse.
_ALWAYS = (Code.INTERNAL_ERROR,)
_BODY = (Code.INVALID_REQUEST, Code.REQUEST_TIMEOUT, Code.REQUEST_TOO_LARGE, Code.UNSUPPORTED_ENCODING)
_GUARDS = {
    Guard.OPEN: (),
    Guard.KEY: (Code.INVALID_API_KEY,),
    Guard.CHANGE: (Code.INVALID_API_KEY, Code.FOREIGN_ORIGIN),
    Guard.ADMIN: (Code.INVALID_API_KEY, Code.FOREIGN_ORIGIN),
}
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
_RETRY_AFTER = {"description": "Seconds until a retry may succeed.", "schema": {"type": "integer", "minimum": 1}}
_CHALLENGE = {"description": "How to send the key.", "schema": {"type": "string"}}
_WITH_SLASH = "`name` or `org/name`; the slash may be sent as it is or as %2F."
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
    errors = {_error_name(row, status): _error(row, status, schemas) for row in endpoints for status in statuses(row)}
    used = set(names_in(paths, _RESPONSES))
    responses = {name: error for name, error in sorted(errors.items()) if name in used}
    return {
        "openapi": VERSION,
        "info": {
            "title": "mlx-broker",
            "version": "1",
            "summary": "Many MLX models behind the APIs that clients already speak.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
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


def statuses(endpoint: Endpoint) -> list[int]:
    """With which requests to it can fail."""
    codes = {*_ALWAYS, *_GUARDS[endpoint.guard], *endpoint.failures}
    if endpoint.body is not None:
        codes |= {*_BODY}
    if endpoint.query is not None:
        codes |= {Code.INVALID_REQUEST}
    return sorted({STATUS[code] for code in codes})


def _models(endpoints: Iterable[Endpoint]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {}
    for row in endpoints:
        events = row.stream.events if row.stream else ()
        for model in (row.query, row.body, row.answer, row.dialect.error_answer, *events, *dict(row.others).values()):
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
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _any_of(bodies)}}}
    for status in sorted({status for row in rows for status in statuses(row)}):
        if other := dict(first.others).get(status):
            content = {JSON: {"schema": schemas.of(other)}}
            operation["responses"][str(status)] = {"description": _told(status), "content": content}
            continue
        failing = [row for row in rows if status in statuses(row)]
        operation["responses"][str(status)] = (
            {"$ref": _RESPONSES + _error_name(failing[0], status)}
            if len(failing) == 1
            else _joined([_error(row, status, schemas) for row in failing])
        )
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
            **(
                {"description": "`name` or `org/name`; the slash may be sent as it is or as %2F."}
                if takes_slash
                else {}
            ),
        }
        for name, takes_slash in _PARAMETER.findall(endpoint.path)
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
    if answers := [schemas.of(row.answer) for row in rows if row.answer is not None]:
        content[JSON] = {"schema": _any_of(answers)}
    for row in rows:
        if (stream := row.stream) is not None:
            content[stream.media] = {
                "schema": {"description": stream.about},  # of the whole to some readers, of an event to others
                "x-events": _any_of([schemas.of(event) for event in stream.events]),
                "x-endless": stream.is_endless,
            }
        for media in row.text:
            content[media] = {"schema": {"type": "string"}}
    success: Object = {"description": _words(rows[0])[0]}
    if any(row.body is not None for row in rows):
        success["headers"] = {IGNORED_HEADER: _IGNORED}
    return success | ({"content": content} if content else {})


def _error_name(endpoint: Endpoint, status: int) -> str:
    return f"{endpoint.dialect.name}{status}"


def _error(endpoint: Endpoint, status: int, schemas: Schemas) -> Object:
    headers: Object = {}
    if status == 401:
        headers["www-authenticate"] = _CHALLENGE
    if status in (429, 500, 503):
        headers["retry-after"] = _RETRY_AFTER
    response: Object = {
        "description": _told(status),
        "content": {JSON: {"schema": schemas.of(endpoint.dialect.error_answer)}},
    }
    return response | ({"headers": headers} if headers else {})


def _told(status: int) -> str:
    codes = [f"`{code}`" for code in Code if STATUS[code] == status]
    return f"The code{'s' if len(codes) > 1 else ''} {', '.join(codes)}."


def _joined(errors: Sequence[Object]) -> Object:
    """One response in the forms of several dialects."""
    forms = _any_of([error["content"][JSON]["schema"] for error in errors])
    return {**errors[0], "content": {JSON: {"schema": forms}}}


def _any_of(schemas: Sequence[Object]) -> Object:
    different = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
    return different[0] if len(different) == 1 else {"anyOf": different}
