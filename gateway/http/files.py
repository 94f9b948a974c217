"""Files that ship with the gateway, as responses: a fixed list, read once, with an ETag and strict headers.

Nothing is looked up on the disk by what a client sends.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A browser asks each time and mostly gets 304: a gateway of another version may be behind the same address.
_CACHE = "no-cache"


class ShippedFile:
    """One file. headers: of every response with it."""

    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:24]}"'
        self._headers = {"cache-control": _CACHE, "etag": self._etag, "x-content-type-options": "nosniff", **headers}

    def response(self, request: Request[Any]) -> Response:
        """The file; 304 for a client that has it."""
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self._etag in known or "*" in known:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers={**self._headers, "content-type": self._type})
