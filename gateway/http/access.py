"""The access line: one for each HTTP request, when it has ended."""

import logging
from typing import Any

from gateway.core.served import Served

log = logging.getLogger("access")

_MAX_PATH = 200  # characters


def log_access(served: Served) -> None:
    """An Observer. A name that stands for no model is the client's invention and is left out, as is all that follows
    the path in a URL."""
    if not log.isEnabledFor(logging.INFO):
        return
    known: dict[str, Any] = {
        "method": served.method,
        "path": served.asked[:_MAX_PATH],
        "status": served.status,
        "outcome": served.outcome,
        "model": served.model if served.is_known else None,
    }
    if served.is_inference:  # streams of events and lines have outputs too
        known |= _of_inference(served)
    if served.ended is not None:
        known["duration_seconds"] = round(served.ended - served.started, 4)
    # As log.info, which would ask for the level again, look for the caller and compare the names of fields.
    record = log.makeRecord(log.name, logging.INFO, "", 0, _line(known), (), None)
    record.__dict__.update(known)
    log.handle(record)


def _of_inference(served: Served) -> dict[str, Any]:
    tokens = served.tokens
    known: dict[str, Any] = {}
    if tokens.prompt or tokens.generated:
        known["prompt_tokens"], known["cached_tokens"] = tokens.prompt, tokens.cached
        known["completion_tokens"] = tokens.generated
    if (first := served.first_seconds) is not None:
        known["ttft_seconds"] = round(first, 4)
    return known


def _line(known: dict[str, Any]) -> str:
    """For people: method, path and status, then the rest with their names."""
    words = [known["method"], known["path"], "-" if known["status"] is None else str(known["status"])]
    words += [str(known["outcome"]), *([known["model"]] if known["model"] else [])]
    if "prompt_tokens" in known:
        cached = f" ({known['cached_tokens']} cached)" if known["cached_tokens"] else ""
        words.append(f"prompt {known['prompt_tokens']}{cached}, completion {known['completion_tokens']} tokens")
    words += [f"{short} {known[name]:.3f} s" for short, name in _TIMES if name in known]
    return " ".join(words)


_TIMES = (("ttft", "ttft_seconds"), ("duration", "duration_seconds"))
