"""`events`: every change of a model's state, as it happens."""

import time
from typing import Annotated, Any

import typer

from cli.address import DEFAULT_URL
from cli.gateway import Gateway
from cli.names import complete_models
from cli.options import AsJson, Url
from cli.output import flush, line, print_json_line
from cli.text import shown


def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Only of this one.", autocompletion=complete_models)
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show changes of state as they happen, until Ctrl-C. Begins with the present state of every model in use."""
    path = "/admin/events" if model is None else f"/admin/models/{model}/progress"
    for event in Gateway(url).events("GET", path):
        if as_json:
            print_json_line(event)
        else:
            line(told(event))
        flush()


def told(event: dict[str, Any]) -> str:
    """One line, the parts that are not there left out."""
    at = event.get("at")
    when = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, int | float) else "-"
    text = f"{when}  {event.get('model_id')}  {event.get('state')}"
    if event.get("stage"):
        text += f"  {event['stage']}"
    if isinstance(event.get("fraction"), int | float):
        text += f"  {event['fraction']:.0%}"
    if event.get("reason"):
        text += f"  ({event['reason']})"
    return shown(text)
