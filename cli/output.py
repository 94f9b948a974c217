"""Everything that the command prints. Answers go to stdout, all else to stderr.

Tables are drawn by rich in a terminal; rich heeds NO_COLOR and TERM. Anywhere else they are plain, whole and quick:
columns of text, without colours, nothing left out.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.errors import CliError, ExitCode
from cli.text import fitting, json_text, shown, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

GAP = 2
_STYLES = {"ready": "green", "failed": "red", "cooldown": "red", "loading": "yellow", "downloading": "yellow"}


@dataclass(slots=True, frozen=True)
class Column:
    """Of a table. rank: in a narrow terminal columns of a high rank are left out first, that of rank 0 never."""

    title: str
    rank: int
    right: bool = False


def line(text: str = "") -> None:
    """One line of the answer."""
    sys.stdout.write(f"{text}\n")


def write(text: str) -> None:
    """A piece of the answer."""
    sys.stdout.write(text)


def dim(text: str) -> str:
    """Less bright, in terminals that can and where colours are wanted."""
    plain = not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain else f"\x1b[2m{text}\x1b[0m"


def note(text: str) -> None:
    """One line beside the answer."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str) -> None:
    """The line with which the command fails."""
    note(f"mlx-broker: {shown(text)}")


def print_json(value: Any) -> None:
    """For programs, and readable."""
    line(json_text(value, indent=2, ascii_only=not _is_utf8()))


def print_json_line(value: Any) -> None:
    """For programs that read line by line."""
    line(json_text(value, ascii_only=not _is_utf8()))


def print_done(answer: dict[str, Any], more: str = "", *, as_json: bool) -> None:
    """An answer of administration: `{status, model_id, ...}`."""
    if as_json:
        print_json(answer)
    else:
        line(shown(f"{answer.get('status', 'done')} {answer.get('model_id', '')}{more}"))


def flush() -> None:
    """So that who reads a stream through a pipe has each line at once."""
    sys.stdout.flush()


def is_terminal() -> bool:
    """Whether somebody reads along."""
    return sys.stdout.isatty()


def is_error_terminal() -> bool:
    """Whether progress can be drawn beside the answer."""
    return sys.stderr.isatty()


def can_ask() -> bool:
    """Whether somebody can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def bar(*, in_bytes: bool) -> "Progress":
    """rich's progress bar, which disappears at its end."""
    from rich import progress  # noqa: PLC0415 -- as below
    from rich.text import Text  # noqa: PLC0415 -- as below

    class Speed(progress.ProgressColumn):
        """In the units of the sizes beside it; rich's own has powers of ten."""

        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{size(speed)}/s", style="progress.data.speed")

    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
    ]
    if in_bytes:
        columns += [progress.DownloadColumn(binary_units=True), Speed()]
        columns += [progress.TimeRemainingColumn(compact=True)]
    return progress.Progress(*columns, console=console(stderr=True), transient=True)


def console(*, stderr: bool = False) -> "Console":
    """rich's, which never reads markup here and highlights nothing."""
    from rich.console import Console  # noqa: PLC0415 -- takes as long as all the rest of the command

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """cells: text from anywhere."""
    if is_terminal():
        terminal = console()
        terminal.print(rich_table(columns, rows, terminal.width))
    else:
        for text in plain_table(columns, rows):
            line(text)


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Its lines, the header first."""
    cells = [[column.title for column in columns], *([shown(cell) for cell in row] for row in rows)]
    widths = _widths(cells)
    return [
        (" " * GAP)
        .join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        .rstrip()
        for row in cells
    ]


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> "Table":
    """As many columns as `width` has room for."""
    from rich.table import Table  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    cells = [[shown(cell) for cell in row] for row in rows]
    widths = _widths([[column.title for column in columns], *cells])
    kept = fitting(widths, [column.rank for column in columns], width, GAP)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in (columns[place] for place in kept):
        table.add_column(
            Text(column.title), justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in cells:
        table.add_row(*(Text(row[place], style=_STYLES.get(row[place], "")) for place in kept))
    return table


@contextlib.contextmanager
def screen() -> Iterator[Callable[[Sequence[str], Sequence[Column], Sequence[Sequence[str]], Sequence[str]], None]]:
    """A screen of its own, gone at the end: a function that draws lines, a table and lines below it."""
    from rich.console import Group  # noqa: PLC0415 -- as above
    from rich.live import Live  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    terminal = console()

    def show(
        above: Sequence[str], columns: Sequence[Column], rows: Sequence[Sequence[str]], below: Sequence[str]
    ) -> None:
        room = max(1, terminal.height - len(above) - len(below) - 3)
        more = [] if len(rows) <= room else [f"and {len(rows) - room} more"]
        lines = [Text(text, no_wrap=True, overflow="ellipsis") for text in (*above, "", *more, *below)]
        table = rich_table(columns, rows[:room], terminal.width)
        live.update(Group(*lines[: len(above) + 1], table, *lines[len(above) + 1 :]), refresh=True)

    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        yield show


def confirm(question: str, *, yes: bool, action: str) -> None:
    """Goes on if `yes`, or if whoever sits there says so. Raises CliError else, also where nobody can be asked."""
    if yes:
        return
    if not can_ask():
        raise CliError(f"{question} There is no terminal to ask: say --yes to {action}", ExitCode.USAGE)
    sys.stderr.write(f"{shown(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise CliError("nothing was done")


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]


def _is_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", "") or "").casefold().replace("-", "") == "utf8"
