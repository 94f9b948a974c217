"""Errors as lines of a log: harmless to a terminal, and without messages that may quote what clients and models say."""

import re
import traceback
from types import TracebackType

from broker.wire.log_text import harmless

_OF_MLX = re.compile(r"\[[\w:. ]+\] ")  # `[matmul] ...`
_MAX_CHAIN = 8  # errors that led to each other
_HIDDEN = "(a message that may quote a request; log_level debug shows it)"

# Their messages are about types, files and memory. Those of all others may quote what they could not read.
_ABOUT_THE_CODE = (ArithmeticError, AttributeError, ImportError, IndexError, MemoryError, NameError, OSError, TypeError)


def error_lines(error: BaseException, *, hides: bool) -> list[str]:
    """A traceback as lines, each harmless. hides: leave out messages that may quote a request."""
    lines: list[str] = []
    chain = _chain(error)
    for number, (one, why) in enumerate(reversed(chain)):
        if number:
            lines.append(why)
        if one.__traceback__ is not None:
            lines += ["Traceback (most recent call last):", *_frames(one.__traceback__)]
        lines += _described(one, hides=hides)
    return [harmless(line) for line in lines]


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """The error, what led to it, and so on; each with the sentence that stands before the next one."""
    chain = [(error, "")]
    while len(chain) < _MAX_CHAIN:
        last, _why = chain[-1]
        if last.__cause__ is not None:
            before, why = last.__cause__, "The above exception was the direct cause of the following exception:"
        elif last.__context__ is not None and not last.__suppress_context__:
            before, why = last.__context__, "During handling of the above exception, another exception occurred:"
        else:
            break
        if any(before is one for one, _ in chain):
            break
        chain[-1] = (last, why)
        chain.append((before, ""))
    return chain


def _frames(tb: TracebackType) -> list[str]:
    return [line for frame in traceback.format_tb(tb) for line in frame.rstrip("\n").split("\n")]


def _described(error: BaseException, *, hides: bool) -> list[str]:
    """The last lines of a traceback, as Python writes them."""
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    if hides and not _is_about_the_code(error):
        return [f"{name}: {_HIDDEN}"]
    if isinstance(error, SyntaxError):  # its text is in the message of no other
        return [line for part in traceback.format_exception_only(error) for line in part.rstrip("\n").split("\n")]
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 # a log line must come out of any error
        text = "<an error without a readable message>"
    first, *more = text.split("\n")
    lines = [f"{name}: {first}" if text else name, *more]
    if isinstance(error, BaseExceptionGroup):
        lines += [f"  {line}" for one in error.exceptions[:_MAX_CHAIN] for line in error_lines(one, hides=hides)]
    return lines


def _is_about_the_code(error: BaseException) -> bool:
    if type(error) in (RuntimeError, ValueError) and _OF_MLX.match(str(error)):
        return True
    return type(error) is RuntimeError or isinstance(error, _ABOUT_THE_CODE) or not isinstance(error, Exception)
