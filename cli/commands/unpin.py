"""`unpin`: a model may leave again."""

from cli.address import DEFAULT_URL
from cli.gateway import Gateway, model_path
from cli.names import naming
from cli.options import AsJson, Model, Url
from cli.output import print_done


def command(model: Model, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Let a model leave when it is idle or its memory is needed."""
    gateway = Gateway(url)
    with naming(gateway, model):
        print_done(gateway.post(model_path("unpin", model)), as_json=as_json)
