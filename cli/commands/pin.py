"""`pin`: a model that stays loaded."""

from cli.address import DEFAULT_URL
from cli.gateway import Gateway, model_path
from cli.names import naming
from cli.options import AsJson, Model, Url
from cli.output import print_done


def command(model: Model, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Keep a model loaded. It is never evicted, and restarts after a death. Does not wait until it is loaded."""
    gateway = Gateway(url)
    with naming(gateway, model):
        print_done(gateway.post(model_path("pin", model)), as_json=as_json)
