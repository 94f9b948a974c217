"""Files that ship with the gateway, as responses: a fixed list, each read once, with an ETag.

Nothing is looked up on the disk by what a client sends. Nothing in these files is inline and none names another host,
so that their headers can forbid both.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # A browser asks each time and mostly gets 304: a gateway of another version may be behind the same address.
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class ShippedFiles:
    """Name -> file. A file is read when it is asked for the first time."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = places
        self._read: dict[str, _File] = {}

    def response(self, request: Request[Any], name: str) -> Response:
        """The file; 304 for a client that has it. Raises HTTPException for a name that is none of these."""
        if name not in self._places:
            raise HTTPException(404)
        if name not in self._read:
            self._read[name] = _File(self._places[name])
        return self._read[name].response(request)


class _File:
    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:24]}"'
        self._headers = {**_HEADERS, "etag": self._etag}

    def response(self, request: Request[Any]) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self._etag in known or "*" in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers={**self._headers, "content-type": self._type})
