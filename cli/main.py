"""The command `mlx-broker`: which commands there are, and how whatever they raise ends.

To add a command, add its name to COMMANDS, and a module `cli/commands/<name>.py` with a function `command` whose
parameters are typer's (cli/options.py has those that several commands share) and whose docstring is its help. It prints
through cli/output.py, speaks to the gateway through cli/gateway.py and raises CliError for what goes wrong. A command's
module is imported only when the command runs; what takes long to import (rich above all), inside the function that
needs it.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.errors import CliError, ExitCode
from cli.gateway import DEFAULT_URL
from cli.output import complain, line
from cli.texts import take_texts_as_they_are

NAME = "mlx-broker"
COMPLETION = "_MLX_BROKER_COMPLETE"
# In the order of the help.
COMMANDS: tuple[str, ...] = (
    "serve",
    "stop",
    "run",
    "ps",
    "top",
    "models",
    "pull",
    "rm",
    "load",
    "unload",
    "kill",
    "pin",
    "unpin",
    "logs",
    "events",
    "bench",
    "doctor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code. Nothing is raised but SystemExit, and no traceback is printed unless Python runs with `-X dev`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()
    except CliError as error:
        code = _failed(error.message, error.exit_code)
    except TyperException as error:
        code = _failed(_usage(error), ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        code = ExitCode.CLOSED_PIPE
        _drop_stdout()
    except OSError as error:
        _drop_stdout()
        code = _failed(f"cannot write the answer: {error.strerror or error}", ExitCode.FAILED)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        code = _failed(_bug(error), ExitCode.FAILED)
    return int(code)


def _run(arguments: list[str]) -> int:
    app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_options)
    named = _named(arguments)
    for name in COMMANDS if named is None else (named,):
        app.command(name)(importlib.import_module(f"cli.commands.{name}").command)
    command = typer.main.get_command(app)
    take_texts_as_they_are()
    if COMPLETION in os.environ:
        command.main(arguments, prog_name=NAME, complete_var=COMPLETION)
    try:
        with command.make_context(NAME, arguments) as context:
            command.invoke(context)
    except typer.Exit as error:
        return error.exit_code
    return ExitCode.OK


def _named(arguments: Sequence[str]) -> str | None:
    """The command that these arguments run, so that no other one is imported; None if that is not clear."""
    left = iter(arguments)
    for word in left:
        if word == "--url":
            next(left, None)
        elif not word.startswith("-"):
            return word if word in COMMANDS else None
    return None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- takes a third of `ps`

        try:
            line(f"{NAME} {version(NAME)}")
        except PackageNotFoundError:
            line(f"{NAME} (from a checkout)")
        raise typer.Exit


def _options(
    url: Annotated[
        str, typer.Option("--url", envvar="MLX_BROKER_URL", metavar="URL", help="The gateway to speak to.")
    ] = DEFAULT_URL,
    version: Annotated[  # noqa: ARG001, RUF100 -- its callback has done the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serves MLX models, each in a process of its own. Every command speaks to a gateway over HTTP."""
    os.environ["MLX_BROKER_URL"] = url  # from where the command's own --url takes its default


def _prepare_streams() -> None:
    """A terminal that lacks a letter must not end a command. A stream may be closed from the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 -- stays open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _failed(text: str, code: ExitCode) -> ExitCode:
    try:
        complain(text)
    except OSError:
        _drop_stdout()
    return code


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else NAME
    return f"{error.format_message().rstrip('.').replace(chr(10), ' ')} (see `{path} --help`)"


def _bug(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
    return f"this is a bug, please report it: {type(error).__name__}: {error}{place}"


def _drop_stdout() -> None:
    """What is still buffered cannot be written: without this, Python tries again at its end and complains."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass
