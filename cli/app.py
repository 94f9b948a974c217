"""The typer app: the options of the whole command, and of its commands only the one that runs."""

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from broker.wire.version import VERSION
from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode
from cli.output import line
from cli.texts import take_texts_as_they_are

NAME = "mlx-broker"
COMPLETION = "_MLX_BROKER_COMPLETE"
_NAMED_SHELL = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
_SHOWS_SHELLS = frozenset({"--show-completion", "--install-completion", "--help", "-h"})


def run(arguments: Sequence[str], commands: Sequence[str]) -> int:
    """The exit code. commands: names of modules in cli/commands/, in the order of the help. Raises CliError, and
    whatever a command raises."""
    with _naming_shells(arguments):
        return _run(arguments, commands)


@contextlib.contextmanager
def _naming_shells(arguments: Sequence[str]) -> Iterator[None]:
    """`--show-completion zsh` means zsh. Typer would take the shell among its parents, and has none in a script.

    To every other command this would cost imports."""
    if any(word.partition("=")[0] in _SHOWS_SHELLS for word in arguments):
        os.environ[_NAMED_SHELL] = "1"
    try:
        yield
    finally:
        os.environ.pop(_NAMED_SHELL, None)


def _run(arguments: Sequence[str], commands: Sequence[str]) -> int:
    app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_options)
    named = _named(_completed_words() if COMPLETION in os.environ else arguments, commands)
    for name in commands if named is None else (named,):
        app.command(name)(importlib.import_module(f"cli.commands.{name}").command)
    command = typer.main.get_command(app)
    take_texts_as_they_are()
    if COMPLETION in os.environ:
        command.main(list(arguments), prog_name=NAME, complete_var=COMPLETION)
    try:
        with command.make_context(NAME, list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except TyperException as error:
        raise CliError(_usage(error), ExitCode.USAGE) from error
    return ExitCode.OK


def _named(arguments: Sequence[str], commands: Sequence[str]) -> str | None:
    """The command that these arguments run, so that no other one is imported; None if that is not clear."""
    left = iter(arguments)
    for word in left:
        if word == "--url":
            next(left, None)
        elif not word.startswith("-"):
            return word if word in commands else None
    return None


def _completed_words() -> list[str]:
    """The words of a line that is being typed, without its last one: a shell has put the line into a variable."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()[1:]
    return words if line[-1:].isspace() else words[:-1]


def _print_version(wanted: bool) -> None:
    if wanted:
        line(f"{NAME} {VERSION}")
        raise typer.Exit


def _options(
    url: Annotated[
        str, typer.Option("--url", envvar="MLX_BROKER_URL", metavar="URL", help="The gateway to speak to.")
    ] = DEFAULT_URL,
    version: Annotated[  # noqa: ARG001, RUF100 -- its callback has done the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve MLX models, each in a process of its own; talk to them, and see and steer what runs."""
    os.environ["MLX_BROKER_URL"] = url  # from where the command's own --url takes its default


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else NAME
    return f"{error.format_message().rstrip('.').replace(chr(10), ' ')} (see `{path} --help`)"
