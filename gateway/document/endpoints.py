"""GET /openapi.json and its row of the endpoint table."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import orjson
from anyio import to_thread
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.dialect import ADMIN
from gateway.document.openapi import JSON, openapi
from gateway.http.endpoints import Endpoint, Guard
from gateway.http.inference import AppState


class OpenApiDocument(BaseModel):
    """An OpenAPI 3.1 document."""

    model_config = ConfigDict(strict=True, extra="forbid")

    openapi: str
    info: dict[str, Any]
    tags: list[dict[str, str]]
    paths: dict[str, Any]
    components: dict[str, Any]


@dataclass(slots=True, frozen=True)
class WrittenDocument:
    """The document as it is sent."""

    body: bytes
    etag: str


async def document(request: Request[AppState]) -> Response:
    """This document."""
    written = await to_thread.run_sync(_written, request.state["endpoints"])
    headers = {"etag": written.etag, "cache-control": "no-cache"}
    if written.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(written.body, headers=headers, media_type=JSON)


@functools.lru_cache(maxsize=1)
def _written(endpoints: tuple[Endpoint, ...]) -> WrittenDocument:
    """Made once, and not on the loop: streams would wait for it."""
    body = orjson.dumps(openapi(endpoints))
    return WrittenDocument(body, f'"{hashlib.sha256(body).hexdigest()[:24]}"')


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=document,
        guard=Guard.OPEN,
        dialect=ADMIN,
        answer=OpenApiDocument,
        failures=(),
    ),
)
