"""`pull`: a model is downloaded, with its progress."""

import contextlib

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway, Json, listed, model_path
from cli.options import AsJson, Model, Url
from cli.output import note, print_done
from cli.progress import PullBar
from cli.text import gigabytes, shown


def command(model: Model, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Download a model from the Hugging Face hub, or the rest of it.

    Ctrl-C ends the download that this command has begun; the next `pull` continues it. One that was running before
    goes on.
    """
    gateway = Gateway(url, timeout=None)
    others = _is_downloading(gateway, model)
    try:
        answer = _pulled(gateway, model)
    except RefusedError as error:
        if error.exit_code is not ExitCode.NO_MODEL or "/" in model:
            raise
        raise CliError(f"{error.message}; on the hub, names have the form org/name", ExitCode.NO_MODEL) from error
    except KeyboardInterrupt:
        if others:
            note(f"the download of {shown(model)} goes on, as it had begun before")
        else:
            with contextlib.suppress(CliError):
                gateway.waiting(5.0).post(model_path("cancel", model))
            note(f"stopped; `mlx-broker pull {shown(model)}` continues where it ended")
        raise
    print_done(answer, f" ({gigabytes(answer.get('size_gb'))})", as_json=as_json)


def _pulled(gateway: Gateway, model: str) -> Json:
    last: Json = {}
    with PullBar(model) as download:
        for event in gateway.events("POST", model_path("pull", model), {"stream": "true"}):
            if "status" in event:
                last = event
            else:
                download.update(event)
    if not last:
        raise CliError(f"the download of {model} ended without a result; `mlx-broker pull {model}` continues it")
    return last


def _is_downloading(gateway: Gateway, model: str) -> bool:
    """Whether somebody else's download of it runs: it is not ours to end."""
    try:
        models = listed(gateway.waiting(30.0).get("/admin/models/status"), "models")
    except RefusedError:
        return False
    return any(entry.get("model_id") == model and entry.get("state") == "downloading" for entry in models)
