"""`events`: every change of a model's state, as it happens."""

import time
from typing import Any

from cli.address import DEFAULT_URL
from cli.gateway import Gateway
from cli.names import expect_model
from cli.options import AsJson, ModelOrAll, Url
from cli.output import flush, line, print_json_line
from cli.text import shown


def command(
    model: ModelOrAll = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show changes of state as they happen, until Ctrl-C. Begins with the present state of every model in use."""
    path = "/admin/events" if model is None else f"/admin/models/{model}/progress"
    gateway = Gateway(url)
    if model is not None:
        expect_model(gateway, model)
    for event in gateway.events("GET", path):
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
