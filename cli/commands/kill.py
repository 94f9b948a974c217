"""`kill`: SIGKILL for the process of a model, now."""

from cli.address import DEFAULT_URL
from cli.gateway import Gateway, listed, model_path
from cli.names import naming
from cli.options import AsJson, Model, Url, Yes
from cli.output import can_ask, confirm, print_done
from cli.text import plural


def command(model: Model, yes: Yes = False, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Kill the process of a model. A pinned one starts again at once.

    Asks first if requests would be lost and a terminal is there to ask.
    """
    gateway = Gateway(url)
    if not yes and can_ask():
        entries = listed(gateway.get("/admin/models/status"), "models")
        lost = sum(entry.get("in_flight") or 0 for entry in entries if entry.get("model_id") == model)
        if lost:
            confirm(f"{model} has {plural(lost, 'request')} in flight. Kill it?", yes=False, action="kill it")
    with naming(gateway, model):
        answer = gateway.post(model_path("kill", model))
    print_done(answer, f" (process {answer.get('pid')})", as_json=as_json)
