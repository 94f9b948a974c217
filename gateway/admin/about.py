"""What runs here, for people who look after it: the models of this machine, the versions, the settings in force."""

import asyncio
import os
import platform
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.settings_file import SettingsError
from broker.wire.version import VERSION
from gateway.core import ask
from gateway.core.administration import gib
from gateway.core.dialect import Json as JsonMap
from gateway.directory import Directory
from gateway.http.errors import Json
from gateway.http.inference import AppState, finish
from gateway.settings import Settings, load_settings

# This module is loaded when the process starts.
_STARTED_AT = time.time()

# The settings that every request looks at anew.
_AT_ONCE = frozenset({"aliases", "models", "default_max_tokens"})

# Those that decide how this project behaves: what computes, and what carries messages.
_LIBRARIES = (
    *("mlx", "mlx-metal", "mlx-lm", "mlx-vlm", "llguidance", "tokenizers", "huggingface-hub"),
    *("pyzmq", "msgpack", "psutil", "pydantic", "starlette", "uvicorn", "uvloop", "httptools", "orjson"),
)


async def models(request: Request[AppState]) -> Response:
    """Every model of this machine; what looks like one and cannot be used, with the reason; where that was looked
    for."""
    report = await finish(request, ask.catalog())
    return Json(
        {
            "models": [{**m.model_dump(exclude={"size_bytes"}), "size_gb": gib(m.size_bytes)} for m in report.models],
            "broken": [broken.model_dump() for broken in report.broken],
            "folders": [folder.model_dump() for folder in report.folders],
        }
    )


async def about(request: Request[AppState]) -> Response:
    """The versions of this project and its libraries, the system, and both processes."""
    report = await finish(request, ask.describe())
    return Json(
        {
            "version": VERSION,
            "python": platform.python_version(),
            "system": platform.platform(),
            "machine": platform.machine(),
            "metal": report.has_metal,
            "libraries": await asyncio.to_thread(_libraries),  # reads files
            "gateway": {"pid": os.getpid(), "started_at": _STARTED_AT},
            "broker": {"pid": report.pid, "started_at": report.started_at},
        }
    )


async def settings(request: Request[AppState]) -> Response:
    """The settings in force; of a secret only whether it is set."""
    report = await finish(request, ask.describe())
    return Json({"gateway": _in_force(request.state["directory"].settings), "broker": report.settings})


async def reload_settings(request: Request[AppState]) -> Response:
    """Read the settings file again, in this gateway and the broker; a line for each mistake, and then nothing has
    changed."""
    directory = request.state["directory"]
    found, mistakes = await asyncio.to_thread(_reread)
    if found is not None:
        mistakes += await Directory(found, request.state["link"]).mistakes()
    report = None
    try:
        report = await finish(request, ask.reload_settings(apply=not mistakes))
    except FailureError as error:
        if error.failure.code is not Code.INVALID_REQUEST:
            raise
        mistakes.append(error.failure.message)
    if found is None or report is None or mistakes:
        raise FailureError(Failure(Code.INVALID_REQUEST, "\n".join(mistakes)))
    changed = {name for name, value in found if getattr(directory.settings, name) != value}
    directory.use(directory.settings.model_copy(update={name: getattr(found, name) for name in _AT_ONCE}))
    return Json(
        {
            "status": "reloaded",
            **report.model_dump(include={"applied", "at_next_load", "needs_restart"}),
            "gateway_applied": sorted(changed & _AT_ONCE),
            "gateway_needs_restart": sorted(changed - _AT_ONCE),
        }
    )


def _reread() -> tuple[Settings | None, list[str]]:
    """What the file says now, or the mistakes in it."""
    try:
        return load_settings(), []
    except SettingsError as error:
        return None, [str(line) for line in error.args]


def _in_force(settings: Settings) -> JsonMap:
    secrets = {name: "set" for name, value in settings if isinstance(value, SecretStr)}
    return settings.model_dump(mode="json", exclude=set(secrets)) | secrets


@cache
def _libraries() -> dict[str, str]:
    """Name -> version of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
