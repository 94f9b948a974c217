"""Names of models: what the shell completes, and which are nearest to one that does not exist."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway, listed
from cli.output import note
from cli.text import shown

COMPLETION_SECONDS = 0.5
# zsh evaluates what is completed, so no name may hold what a shell could run.
_PLAIN = re.compile(r"[\w./:@+-]+")


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Those of `names` that somebody who typed `name` may have meant, best first: by the whole name, and by what
    follows the organisation."""
    from difflib import SequenceMatcher  # noqa: PLC0415 -- needed for mistakes only

    wanted = name.casefold()
    scores: dict[str, float] = {}
    for candidate in names:
        whole = candidate.casefold()
        forms = (whole, whole.rpartition("/")[2])
        score = max(SequenceMatcher(None, wanted, form).ratio() for form in forms)
        if len(wanted) > 2 and any(wanted in form for form in forms):
            score = max(score, 0.9)
        if score >= 0.6:
            scores[candidate] = score
    best = max(scores.values(), default=0.0)
    close = [candidate for candidate, score in scores.items() if score >= best - 0.15]
    return sorted(close, key=lambda candidate: (-scores[candidate], candidate))[:count]


def model_names(gateway: Gateway) -> list[str]:
    """Of every model on the gateway's machine, loaded or not, for whoever has the key to one of both lists. Raises
    CliError."""
    try:
        return [str(entry.get("id")) for entry in listed(gateway.get("/v1/models"), "data")]
    except RefusedError:
        return [str(entry.get("model_id")) for entry in listed(gateway.get("/admin/models"), "models")]


def unknown_model(gateway: Gateway, name: str) -> CliError | None:
    """The error that there is no such model, with the nearest names, or why its files cannot be loaded; None if there
    is one, by this name, by an alias or in another case, or if nobody knows."""
    try:
        gateway.get(f"/v1/models/{name}")
    except CliError as error:
        if error.exit_code is not ExitCode.NO_MODEL:
            return None
    else:
        return None
    if reason := _why_broken(gateway, name):
        return CliError(f"{name} cannot be loaded: {reason.removeprefix(f'{name}: ')}")
    try:
        near = nearest(name, model_names(gateway))
    except CliError:
        near = []
    hint = f"did you mean {' or '.join(near)}?" if near else "`mlx-broker models` lists those that it has"
    return CliError(f"{gateway.url} has no model {name}: {hint}", ExitCode.NO_MODEL)


def _why_broken(gateway: Gateway, name: str) -> str | None:
    """None where nothing of this name is broken, or where this client may not know it."""
    try:
        broken = listed(gateway.get("/admin/models"), "broken")
    except CliError:
        return None
    return next((str(entry.get("reason")) for entry in broken if entry.get("model_id") == name), None)


def expect_model(gateway: Gateway, name: str) -> None:
    """Before a wait that may have no end: raises CliError if there is no such model. One with an organisation may still
    come from the hub, so that only a line says it."""
    unknown = unknown_model(gateway, name)
    if unknown is not None:
        if "/" not in name:
            raise unknown
        note(shown(unknown.message))


@contextlib.contextmanager
def naming(gateway: Gateway, name: str) -> Iterator[None]:
    """What is asked within is about this model: if there is none of this name, the error has the nearest ones."""
    try:
        yield
    except RefusedError as error:
        better = unknown_model(gateway, name) if error.exit_code is ExitCode.NO_MODEL else None
        raise better or error from error


def complete_models(ctx: Any, incomplete: str) -> list[str]:
    """For the shell. Silent and quick where the gateway is away: nothing may disturb a line that is being typed. A name
    is left out that a shell could misread."""
    url = ctx.params.get("url") or os.environ.get("MLX_BROKER_URL") or DEFAULT_URL
    try:
        names = model_names(Gateway(url, timeout=COMPLETION_SECONDS))
    except CliError:
        return []
    return [name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)]
