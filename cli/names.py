"""Names of models: what the shell completes, and which are nearest to one that does not exist."""

import difflib
import os
from collections.abc import Iterable
from typing import Any

from cli.errors import CliError, ExitCode
from cli.gateway import Gateway, listed

COMPLETION_SECONDS = 0.5


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Those of `names` that somebody who typed `name` may have meant, best first: by the whole name, and by what
    follows the organisation."""
    wanted = name.casefold()
    scores: dict[str, float] = {}
    for candidate in names:
        whole = candidate.casefold()
        forms = (whole, whole.rpartition("/")[2])
        score = max(difflib.SequenceMatcher(None, wanted, form).ratio() for form in forms)
        if wanted and any(wanted in form for form in forms):
            score = max(score, 0.9)
        if score >= 0.6:
            scores[candidate] = score
    return sorted(scores, key=lambda candidate: (-scores[candidate], candidate))[:count]


def model_names(gateway: Gateway) -> list[str]:
    """Of every model on the gateway's machine, loaded or not. Raises CliError."""
    try:
        return [str(entry.get("model_id")) for entry in listed(gateway.get("/admin/models"), "models")]
    except CliError:
        return [str(entry.get("id")) for entry in listed(gateway.get("/v1/models"), "data")]


def unknown_model(gateway: Gateway, name: str) -> CliError | None:
    """The error that there is no such model, with the nearest names; None if there is one or that is not known."""
    try:
        names = model_names(gateway)
    except CliError:
        return None
    if name in names:
        return None
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(near)}?" if near else "`mlx-broker models` lists those on this machine"
    return CliError(f"there is no model {name!r}: {hint}", ExitCode.NO_MODEL)


def complete_models(ctx: Any, incomplete: str) -> list[str]:
    """For the shell. Silent and quick where the gateway is away: nothing may disturb a line that is being typed."""
    url = (ctx.params or {}).get("url") or os.environ.get("MLX_BROKER_URL")
    try:
        gateway = Gateway(url, timeout=COMPLETION_SECONDS) if url else Gateway(timeout=COMPLETION_SECONDS)
        return [name for name in model_names(gateway) if name.startswith(incomplete)]
    except CliError:
        return []
