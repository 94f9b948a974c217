"""`launch`: a coding agent that works with a model here."""

import os
import shutil
import sys
from typing import Annotated

import typer

from cli.address import DEFAULT_URL
from cli.agents import AGENTS, INSTALL, KEY, ServedModel
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway
from cli.names import unknown_model
from cli.options import Model, Url
from cli.output import line, note
from cli.text import shown

Agent = Annotated[
    str,
    typer.Argument(
        metavar="codex|opencode|claude",
        help="The agent.",
        autocompletion=lambda incomplete: [name for name in AGENTS if name.startswith(incomplete)],
    ),
]
Words = Annotated[list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="The agent's own arguments.")]
Print = Annotated[bool, typer.Option("--print", help="Only print the shell lines that set it up, for eval.")]


def command(agent: Agent, model: Model, words: Words = None, only_print: Print = False, url: Url = DEFAULT_URL) -> None:
    """Start a coding agent that works with a model here. Its own settings stay as they are."""
    if agent not in AGENTS:
        raise CliError(f"launch knows {', '.join(AGENTS)}, not {agent!r}", ExitCode.USAGE)
    key = os.environ.get(KEY, "").strip() or None
    launch = AGENTS[agent](_endpoint(Gateway(url), model, has_key=key is not None))
    program = shutil.which(launch.program)
    if only_print or program is None:
        for text in launch.shell_lines(has_key=key is not None):
            line(text)
        if program is None:
            problem = f"{launch.program} is not installed here, or not on PATH: {INSTALL[agent]}"
            if not only_print:
                raise CliError(f"{problem}. The lines above set it up")
            note(f"mlx-broker: {problem}")
        return
    sys.stdout.flush()
    os.execve(program, [program, *launch.arguments, *(words or [])], {**os.environ, **launch.environment(key)})  # noqa: S606 -- no shell is wanted


def _endpoint(gateway: Gateway, model: str, *, has_key: bool) -> ServedModel:
    """Raises CliError, with the nearest names if there is no such model."""
    try:
        found = gateway.get(f"/v1/models/{model}")
    except RefusedError as error:
        raise (error.status == 404 and unknown_model(gateway, model)) or error from error
    context = found.get("context_length")
    if isinstance(context, int) and 0 < context < 16_000:
        note(f"{shown(model)} holds {context} tokens, and agents send prompts of 10,000 and more")
    return ServedModel(gateway.url, model, context if isinstance(context, int) and context > 0 else None, has_key)
