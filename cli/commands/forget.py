"""`forget`: cached prompts are removed, in memory and on disk."""

from contextlib import nullcontext

from cli.address import DEFAULT_URL
from cli.gateway import Gateway
from cli.names import naming
from cli.options import AsJson, ModelOrAll, Url
from cli.output import print_done


def command(model: ModelOrAll = None, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Remove the cached prompts of a model, or of all."""
    gateway = Gateway(url)
    path = "/admin/cache/forget" if model is None else f"/admin/cache/forget/{model}"
    with nullcontext() if model is None else naming(gateway, model):
        answer = gateway.post(path)
    print_done(answer | {"model_id": answer.get("model_id") or "all"} if not as_json else answer, as_json=as_json)
