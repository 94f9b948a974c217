"""`rm`: the files of a model are deleted."""

from cli.address import DEFAULT_URL
from cli.errors import CliError
from cli.gateway import Gateway, listed
from cli.names import naming
from cli.options import AsJson, Model, Url, Yes
from cli.output import confirm, print_done
from cli.text import gigabytes

_IDLE = ("unloaded", "failed", "cooldown")


def command(model: Model, yes: Yes = False, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Delete the files of a model that is not loaded. Asks first."""
    gateway = Gateway(url)
    entries = [entry for entry in listed(gateway.get("/admin/models"), "models") if entry.get("model_id") == model]
    if entries and entries[0].get("state") not in _IDLE:
        state = entries[0].get("state")
        raise CliError(f"{model} is in use ({state}): unload it first with `mlx-broker unload {model}`")
    much = f", {gigabytes(entries[0].get('size_gb'))}" if entries else ""
    confirm(f"Delete {model}{much}, from the disk?", yes=yes, action="delete it")
    with naming(gateway, model):
        print_done(gateway.delete(f"/admin/models/{model}"), as_json=as_json)
