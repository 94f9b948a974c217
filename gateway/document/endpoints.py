"""GET /openapi.json, the page /docs that shows it, and their rows of the endpoint table."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from anyio import to_thread
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code
from gateway.admin.dialect import ADMIN
from gateway.document.openapi import openapi
from gateway.document.schemas import JSON
from gateway.http.endpoints import UNCHANGED, Endpoint, Guard, Handler
from gateway.http.files import ShippedFiles
from gateway.http.inference import AppState


class OpenApiDocument(BaseModel):
    """An OpenAPI 3.1 document."""

    model_config = ConfigDict(strict=True, extra="forbid")

    openapi: str
    info: dict[str, Any]
    servers: list[dict[str, str]]
    tags: list[dict[str, str]]
    paths: dict[str, Any]
    components: dict[str, Any]


@dataclass(slots=True, frozen=True)
class WrittenDocument:
    """The document as it is sent."""

    body: bytes
    etag: str


_HERE = Path(__file__).parent
PAGE = "docs.html"
# Name below /docs/ -> place of the file.
FILES = {name: _HERE / "page" / name for name in (PAGE, "docs.js")} | {
    name: _HERE / "vendor" / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")
}
_SHIPPED = ShippedFiles(FILES)


async def document(request: Request[AppState]) -> Response:
    """This document: every route, as OpenAPI 3.1."""
    written = await to_thread.run_sync(_written, request.state["endpoints"])
    headers = {"etag": written.etag, "cache-control": "no-cache"}
    if written.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(written.body, headers=headers, media_type=JSON)


async def docs(request: Request[AppState]) -> Response:
    """A page that shows this document."""
    return _SHIPPED.response(request, PAGE)


async def docs_file(request: Request[AppState]) -> Response:
    """A file of that page. Raises HTTPException for any other name."""
    return _SHIPPED.response(request, request.path_params["file"])


@functools.lru_cache(maxsize=1)
def _written(endpoints: tuple[Endpoint, ...]) -> WrittenDocument:
    """Made once, and not on the loop: streams would wait for it."""
    body = orjson.dumps(openapi(endpoints))
    return WrittenDocument(body, f'"{hashlib.sha256(body).hexdigest()[:24]}"')


def _row(
    path: str,
    handler: Handler,
    *,
    answer: type[BaseModel] | None = None,
    text: tuple[str, ...] = (),
    failures: tuple[Code, ...] = (),
) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        handler=handler,
        guard=Guard.OPEN,
        dialect=ADMIN,
        answer=answer,
        text=text,
        failures=failures,
        others=UNCHANGED,
    )


ENDPOINTS = (
    _row("/openapi.json", document, answer=OpenApiDocument),
    _row("/docs", docs, text=("text/html",)),
    _row("/docs/{file}", docs_file, text=("text/html", "text/javascript", "text/css"), failures=(Code.NOT_FOUND,)),
)
