"""`reload`: another process of a model, without a gap; or the settings of the broker, read again."""

from typing import Annotated

import typer

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway, model_path
from cli.names import complete_models, naming
from cli.options import AsJson, Url, not_empty
from cli.output import line, print_done, print_json


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
    print_done(answer, as_json=as_json)


def _reread(gateway: Gateway, *, as_json: bool) -> None:
    answer = gateway.post("/admin/settings/reload")
    if as_json:
        print_json(answer)
        return
    said = [("applied", "applied"), ("at_next_load", "at the next load of"), ("needs_restart", "needs a restart")]
    lines = [f"{how}: {', '.join(map(str, names))}" for key, how in said if (names := answer.get(key))]
    for text in lines or ["nothing has changed"]:
        line(text)
