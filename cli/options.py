"""Arguments and options that several commands have."""

from typing import Annotated

import typer

from cli.names import complete_models


def not_empty(name: str | None) -> str | None:
    """An empty name is that of a variable which is not set."""
    if name is not None and not name.strip():
        raise typer.BadParameter("it must be the name of a model")
    return name


Url = Annotated[
    str,
    typer.Option("--url", envvar="MLX_BROKER_URL", metavar="URL", help="The gateway to speak to."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its name.", autocompletion=complete_models, callback=not_empty)
]
ModelOrAll = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="Without it: all in use.", autocompletion=complete_models, callback=not_empty),
]
