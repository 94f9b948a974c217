"""The page for people: its files and their rows of the endpoint table.

All of it is open, since it holds no data: what it shows it reads from /admin and /v1, with their keys.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code
from gateway.admin.dialect import ADMIN
from gateway.http.endpoints import UNCHANGED, Endpoint, Guard, Handler, Subtree
from gateway.http.files import ShippedFiles
from gateway.http.inference import AppState

_HERE = Path(__file__).parent
# Name below /ui/ -> place of the file. A test compares it with the folders.
PAGE = "index.html"
FILES = {
    name: _HERE / "static" / name
    for name in (
        PAGE,
        "actions.js",
        "api.js",
        "app.js",
        "base.css",
        "cards.js",
        "charts.js",
        "chat.css",
        "chat.js",
        "chat_view.js",
        "dialogs.js",
        "disk.js",
        "dom.js",
        "format.js",
        "icon.svg",
        "lanes.js",
        "live.js",
        "log.js",
        "memory.js",
        "memory_parts.js",
        "notices.js",
        "parts.css",
        "places.js",
        "sse.js",
        "state.js",
    )
} | {f"vendor/{name}": _HERE / "vendor" / name for name in ("uPlot.iife.min.js", "uPlot.min.css")}
_SHIPPED = ShippedFiles(FILES)


async def page(request: Request[AppState]) -> Response:
    """The page, which is the same below both of its addresses."""
    answer = _SHIPPED.response(request, PAGE)
    answer.headers["vary"] = "accept"  # at / other programs get a text
    return answer


async def file(request: Request[AppState]) -> Response:
    """A file of the page. Raises HTTPException for any other name."""
    return _SHIPPED.response(request, request.path_params["file"])


def _row(
    path: str, handler: Handler, text: tuple[str, ...], failures: tuple[Code, ...] = (), accept: str | None = None
) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        handler=handler,
        guard=Guard.OPEN,
        dialect=ADMIN,
        text=text,
        failures=failures,
        others=UNCHANGED,
        accept=accept,
    )


_HTML = "text/html"
ENDPOINTS = (
    _row("/", page, (_HTML,), accept=_HTML),
    _row("/ui", page, (_HTML,)),
    _row("/ui/{file:path}", file, (_HTML, "text/javascript", "text/css", "image/svg+xml"), (Code.NOT_FOUND,)),
)
SUBTREE = Subtree(prefix="/ui", guard=Guard.OPEN, dialect=ADMIN)
