"""`reload`: another process of a model, without a gap; or the settings of the broker, read again."""

from typing import Annotated

import typer

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway, model_path
from cli.names import complete_models, naming
from cli.options import AsJson, Url, not_empty
from cli.output import complain, line, print_done, print_json
from cli.text import gigabytes

# What the answer has, in words.
_SAID = {
    "applied": "applied",
    "gateway_applied": "applied by the gateway",
    "at_next_load": "at the next load or reload of",
    "needs_restart": "after a restart of the broker",
    "gateway_needs_restart": "after a restart of the gateway",
}


def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Its name.", autocompletion=complete_models, callback=not_empty),
    ] = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="Read the settings file of the broker again, instead of a model.")
    ] = False,
    allow_gap: Annotated[
        bool, typer.Option("--allow-gap", help="Where memory has no room for two, end the old process first.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Load a model anew beside the process that serves it. No request fails or waits.

    New weights and settings count from then on. If the new process cannot load, the old one stays.
    """
    if settings is (model is not None) or (settings and allow_gap):
        raise CliError("name a model, or read the settings again with --settings", ExitCode.USAGE)
    gateway = Gateway(url, timeout=None)
    if model is None:
        _reread(gateway, as_json=as_json)
        return
    try:
        with naming(gateway, model):
            answer = gateway.post(model_path("reload", model), {"allow_gap": "true"} if allow_gap else {})
    except RefusedError as error:
        if error.status != 409 or "; allow_gap" not in error.message:
            raise
        raise CliError(f"{error.message.partition('; allow_gap')[0]}: --allow-gap ends that process first") from error
    print_done(answer, f" ({gigabytes(answer.get('size_gb'))})", as_json=as_json)


def _reread(gateway: Gateway, *, as_json: bool) -> None:
    try:
        answer = gateway.post("/admin/settings/reload")
    except RefusedError as error:
        *others, last = error.message.splitlines() or [error.message]  # a line for each mistake
        for text in others:
            complain(text)
        raise CliError(last, error.exit_code) from error
    if as_json:
        print_json(answer)
        return
    lines = [f"{how}: {', '.join(map(str, names))}" for key, how in _SAID.items() if (names := answer.get(key))]
    for text in lines or ["nothing has changed"]:
        line(text)
