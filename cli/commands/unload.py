"""`unload`: the end of a model's process, after its requests."""

from typing import Annotated

import typer

from cli.address import DEFAULT_URL
from cli.errors import CliError, RefusedError
from cli.gateway import Gateway, model_path
from cli.names import naming
from cli.options import AsJson, Model, Url
from cli.output import print_done


def command(
    model: Model,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="How long its requests may take to end.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill its process when they take longer.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """End the process of a model after its requests. Removes its pin."""
    query = {} if timeout is None else {"timeout": f"{timeout:g}"}
    if force:
        query["force"] = "true"
    gateway = Gateway(url, timeout=None)
    try:
        with naming(gateway, model):
            answer = gateway.post(model_path("unload", model), query)
    except RefusedError as error:
        if error.status != 409:
            raise
        why = error.message.partition(" (force")[0]  # in the words of the route
        raise CliError(f"{why}: give it more time with --timeout, or use --force") from error
    print_done(answer, as_json=as_json)
