"""How the requests to a row of the endpoint table can fail, as responses of an OpenAPI document."""

from collections.abc import Sequence

from broker.wire.failure import Code
from gateway.core.failure import STATUS
from gateway.document.schemas import JSON, Object, Schemas, any_of, names_in
from gateway.http.endpoints import Endpoint, Guard

_PREFIX = "#/components/responses/"
# What any request can end with, one with a body, and one that a guard may refuse.
_ALWAYS = (Code.INTERNAL_ERROR,)
_BODY = (Code.INVALID_REQUEST, Code.REQUEST_TIMEOUT, Code.REQUEST_TOO_LARGE, Code.UNSUPPORTED_ENCODING)
_GUARDS = {
    Guard.OPEN: (),
    Guard.KEY: (Code.INVALID_API_KEY,),
    Guard.CHANGE: (Code.INVALID_API_KEY, Code.FOREIGN_ORIGIN),
    Guard.ADMIN: (Code.INVALID_API_KEY, Code.FOREIGN_ORIGIN),
}
_HEADERS: dict[int, Object] = {
    status: {"retry-after": {"description": "Seconds until a retry may succeed.", "schema": {"type": "integer"}}}
    for status in (429, 500, 503)
} | {401: {"www-authenticate": {"description": "How to send the key.", "schema": {"type": "string"}}}}


def failures(rows: Sequence[Endpoint], schemas: Schemas) -> Object:
    """Status -> response of one operation."""
    found = {status: _common(rows, status, schemas) for row in rows for status in _statuses(row)}
    found |= {status: _other(status, row, schemas) for row in rows for status, _model in row.others}
    return {str(status): response for status, response in sorted(found.items())}


def failures_named_in(paths: Object, endpoints: Sequence[Endpoint], schemas: Schemas) -> Object:
    """The components to which `paths` refer."""
    known = {_name(row, status): _response(row, status, schemas) for row in endpoints for status in _statuses(row)}
    return {name: known[name] for name in sorted(set(names_in(paths, _PREFIX)))}


def _statuses(endpoint: Endpoint) -> set[int]:
    codes = {*_ALWAYS, *_GUARDS[endpoint.guard], *endpoint.failures}
    if endpoint.body is not None:
        codes |= {*_BODY}
    if endpoint.query is not None:
        codes |= {Code.INVALID_REQUEST}
    return {STATUS[code] for code in codes}


def _common(rows: Sequence[Endpoint], status: int, schemas: Schemas) -> Object:
    """A component, or one response in the forms of several dialects."""
    failing = [row for row in rows if status in _statuses(row)]
    forms = any_of([schemas.of(row.dialect.error_answer) for row in failing])
    if "anyOf" not in forms:
        return {"$ref": _PREFIX + _name(failing[0], status)}
    return {**_response(failing[0], status, schemas), "content": {JSON: {"schema": forms}}}


def _name(endpoint: Endpoint, status: int) -> str:
    return f"{endpoint.dialect.name}{status}"


def _response(endpoint: Endpoint, status: int, schemas: Schemas) -> Object:
    content = {JSON: {"schema": schemas.of(endpoint.dialect.error_answer)}}
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": _told(status), "content": content, **headers}


def _other(status: int, endpoint: Endpoint, schemas: Schemas) -> Object:
    model = dict(endpoint.others)[status]
    content = {} if model is None else {"content": {JSON: {"schema": schemas.of(model)}}}
    return {"description": _told(status), **content}


def _told(status: int) -> str:
    codes = [f"`{code}`" for code in Code if STATUS[code] == status]
    if status == 304:
        return "The client has it."
    return f"The code{'s' if len(codes) > 1 else ''} {', '.join(codes)}."
