"""Arguments and options that several commands have."""

from typing import Annotated

import typer

from cli.names import complete_models

Url = Annotated[
    str,
    typer.Option("--url", envvar="MLX_BROKER_URL", metavar="URL", help="The gateway to speak to."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.", autocompletion=complete_models)]
