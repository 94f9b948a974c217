"""The one exception whose line is printed, and the exit codes of the command.

A line says what is wrong and what to do. Whoever can say more than the place that raised it, catches and raises again.
"""

import enum


class ExitCode(enum.IntEnum):
    """What scripts can tell apart. docs/cli.md explains them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_GATEWAY = 3  # nothing that answers: no gateway, no broker behind it, or something else at this address
    REFUSED = 4  # the key is missing or wrong
    NO_MODEL = 5  # no model has this name, or it is not loaded
    INTERRUPTED = 130  # 128 + SIGINT
    CLOSED_PIPE = 141  # 128 + SIGPIPE


class CliError(Exception):
    """Ends the command with this line and exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class RefusedError(CliError):
    """The gateway answered with an error. status: of HTTP, 200 where a stream had begun. code: as docs/errors.md lists
    them, None on the routes that send none."""

    def __init__(self, message: str, exit_code: ExitCode, status: int, code: str | None = None) -> None:
        super().__init__(message, exit_code)
        self.status = status
        self.code = code
