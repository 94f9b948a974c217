"""`top`: what `ps` shows, live. Each change of a model's state is shown at once, the numbers once a second.

It survives the restart of broker and gateway: it says what is wrong, keeps the last table and tries again.
"""

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli.address import DEFAULT_URL
from cli.commands.ps import COLUMNS, rows, troubles
from cli.errors import CliError, ExitCode
from cli.gateway import Gateway, Json, listed
from cli.keys import next_key, single_keys
from cli.options import Url
from cli.output import can_ask, is_terminal, screen
from cli.text import duration, gigabytes, shown

RETRY_SECONDS = 1.0
BREATH = 0.2  # between two readings, however much happens: a load reports several times a second


def command(
    url: Url = DEFAULT_URL,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.1, metavar="SECONDS", help="Between two readings.")
    ] = 1.0,
) -> None:
    """Show what runs and what it takes, live. Ends with q or Ctrl-C."""
    if not (is_terminal() and can_ask()) or os.environ.get("TERM") in (None, "", "dumb"):
        raise CliError("top needs a terminal that it can draw in: use `mlx-broker ps`", ExitCode.USAGE)
    gateway = Gateway(url, timeout=5.0)
    view = LiveView(gateway.url, gateway.get("/admin/models/status"))
    wake, change = os.pipe()
    threading.Thread(target=_watch, args=(Gateway(url), change), daemon=True).start()
    try:
        with single_keys(), screen() as show:
            while True:
                now = time.time()
                show(view.above(now), COLUMNS, rows(view.models, now), troubles(view.models))
                key = next_key(BREATH)
                if key is None:
                    key = next_key(interval - BREATH, wake)
                if key is not None and _quits(key):
                    return
                view.read(gateway)
    except KeyboardInterrupt:
        return


def _quits(keys: str) -> bool:
    """q or Escape, which is also the first letter of what other keys send; the end of the terminal too."""
    return keys in ("", "\x1b") or (not keys.startswith("\x1b") and "q" in keys.casefold())


def _watch(gateway: Gateway, change: int) -> None:
    """Writes a byte for every change of a state, as long as this process runs."""
    while True:
        with contextlib.suppress(CliError):
            for _event in gateway.events("GET", "/admin/events"):
                os.write(change, b".")
        time.sleep(RETRY_SECONDS)


@dataclass(slots=True)
class LiveView:
    """What is shown: the last status, and what is wrong since."""

    url: str
    status: Json
    problem: str | None = None

    def read(self, gateway: Gateway) -> None:
        """Asks again; what was shown stays if nobody answers."""
        try:
            status = gateway.get("/admin/models/status")
            listed(status, "models")
        except CliError as error:
            self.problem = error.message
        else:
            self.status, self.problem = status, None

    @property
    def models(self) -> list[dict[str, Any]]:
        """In the order of the status."""
        return listed(self.status, "models")

    def above(self, now: float) -> list[str]:
        """What stands above the table."""
        budget = self.status.get("budget") or {}
        facts = [
            f"mlx-broker {self.status.get('version', '')}".strip(),
            self.url,
            f"{self.status.get('total_models', 0)} of {self.status.get('max_models', '-')} models",
            f"{gigabytes(budget.get('taken_gb'))} of {gigabytes(self.status.get('max_memory_gb'))}",
            f"pressure {budget.get('pressure', '-')}",
            f"up {duration(self.status.get('uptime_seconds') or 0)}",
            time.strftime("%H:%M:%S", time.localtime(now)),
        ]
        return [shown("  ".join(facts)), *([f"! {shown(self.problem)}; trying again"] if self.problem else [])]
