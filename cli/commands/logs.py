"""`logs`: what the processes of models have written, and what they write now.

A thread reads the log of each model; what they bring goes through one queue, so that only the main thread prints and
Ctrl-C and closed pipes end the command as they should.
"""

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from cli.address import DEFAULT_URL
from cli.errors import CliError
from cli.gateway import Gateway, listed
from cli.names import expect_model, unknown_model
from cli.options import AsJson, ModelOrAll, Url
from cli.output import flush, is_terminal, line, print_json_line
from cli.text import shown

_WITH_PROCESS = ("loading", "ready", "draining", "stopping")
Entry = dict[str, Any]


def command(
    model: ModelOrAll = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=0, max=1000, metavar="LINES", help="Old lines to begin with.")
    ] = 100,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show what the process of a model has written, also after it died."""
    gateway = Gateway(url)
    if model is not None:
        if follow:
            expect_model(gateway, model)
        count = 0
        for count, entry in enumerate(_log(gateway, model, tail, follow=follow), 1):  # noqa: B007 -- counts
            _print(entry, named=False, as_json=as_json)
        if count == 0 and (unknown := unknown_model(gateway, model)):
            raise unknown
    elif follow:
        for entry in _Followed(gateway, tail).entries():
            _print(entry, named=True, as_json=as_json)
    else:
        entries = [entry for name in _loaded(gateway) for entry in _log(gateway, name, tail, follow=False)]
        for entry in sorted(entries, key=lambda entry: entry.get("at") or 0.0):
            _print(entry, named=True, as_json=as_json)


@dataclass(slots=True)
class _Followed:
    """The logs of all loaded models, and of those that are loaded later."""

    gateway: Gateway
    tail: int
    _arrived: "queue.Queue[Entry | CliError]" = field(default_factory=queue.Queue)
    _read: set[str] = field(default_factory=set)

    def entries(self) -> Any:
        """As they come. Raises CliError when the gateway or the broker has gone."""
        for name in _loaded(self.gateway):
            self._begin(name, self.tail)
        threading.Thread(target=self._watch, daemon=True).start()
        while True:
            entry = self._arrived.get()
            if isinstance(entry, CliError):
                raise entry
            yield entry

    def _begin(self, name: str, tail: int) -> None:
        if name not in self._read:
            self._read.add(name)
            threading.Thread(target=self._read_one, args=(name, tail), daemon=True).start()

    def _read_one(self, name: str, tail: int) -> None:
        """The end of one log is not that of the others: what ends them all ends the watch too."""
        with contextlib.suppress(CliError):
            for entry in _log(self.gateway, name, tail, follow=True):
                self._arrived.put(entry)

    def _watch(self) -> None:
        try:
            for event in self.gateway.events("GET", "/admin/events"):
                if event.get("state") in _WITH_PROCESS:
                    self._begin(str(event.get("model_id")), self.tail)
        except CliError as error:
            self._arrived.put(error)


def _loaded(gateway: Gateway) -> list[str]:
    models = listed(gateway.get("/admin/models/status"), "models")
    return [str(entry.get("model_id")) for entry in models if entry.get("state") in _WITH_PROCESS]


def _log(gateway: Gateway, name: str, tail: int, *, follow: bool) -> Any:
    query = {"tail": str(tail), "follow": "true" if follow else "false"}
    for entry in gateway.events("GET", f"/admin/models/{name}/logs", query):
        yield {"model_id": name, **entry}


def _print(entry: Entry, *, named: bool, as_json: bool) -> None:
    if as_json:
        print_json_line(entry)
    else:
        text = str(entry.get("text", ""))
        if is_terminal():
            at = entry.get("at")
            when = time.strftime("%H:%M:%S ", time.localtime(at)) if isinstance(at, int | float) else ""
            text = when + shown(text, keep="\t")
        line(f"{shown(entry['model_id'])} | {text}" if named else text)
    flush()
