"""The command `mlx-broker`: which commands there are, and how whatever they raise ends.

To add a command, add its name to COMMANDS, and a module `cli/commands/<name>.py` with a function `command` whose
parameters are typer's (cli/options.py has those that several commands share) and whose docstring is its help. It prints
through cli/output.py, speaks to the gateway through cli/gateway.py and raises CliError for what goes wrong. A command's
module is imported only when the command runs; what takes long to import (rich above all), inside the function that
needs it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from cli.errors import CliError, ExitCode
from cli.output import complain

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
    "reload",
    "pin",
    "unpin",
    "forget",
    "logs",
    "events",
    "bench",
    "doctor",
    "launch",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code. Nothing is raised but SystemExit, and no traceback is printed unless Python runs with `-X dev`."""
    with _ending_at_once():
        from cli.app import run  # noqa: PLC0415 -- see there
    _prepare_streams()
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"], COMMANDS)
        sys.stdout.flush()
    except CliError as error:
        code = _failed(error.message, error.exit_code)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        code = ExitCode.CLOSED_PIPE
        _drop_stdout()
    except OSError as error:
        _drop_stdout()
        what = "cannot write the answer" if error.filename is None else str(error.filename)
        code = _failed(f"{what}: {error.strerror or error}", ExitCode.FAILED)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        code = _failed(_bug(error), ExitCode.FAILED)
    return int(code)


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Python would answer a Ctrl-C during these imports with a traceback. One that is ignored, as with `nohup`, stays
    so; where a test or another program calls, it keeps its own."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _prepare_streams() -> None:
    """Neither a terminal that lacks a letter nor a piped text that is not UTF-8 ends a command. A stream may be closed
    from the start."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 -- stays open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _failed(text: str, code: ExitCode) -> ExitCode:
    try:
        complain(text)
    except OSError:
        _drop_stdout()
    return code


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
