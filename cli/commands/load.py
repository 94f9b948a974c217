"""`load`: a model is loaded and pinned, stage by stage."""

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway, model_path
from cli.names import unknown_model
from cli.options import AsJson, Model, Url
from cli.output import note, print_done
from cli.progress import watched
from cli.text import gigabytes, shown


def command(model: Model, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Load a model and pin it; wait until it is ready. Downloads it first if this machine does not have it."""
    gateway = Gateway(url, timeout=None)
    try:
        with watched(gateway, model):
            answer = gateway.post(model_path("load", model))
    except KeyboardInterrupt:
        note(f"{shown(model)} goes on loading; `mlx-broker unload {shown(model)}` ends that")
        raise
    except RefusedError as error:
        raise _better(error, gateway, model) from error
    print_done(answer, f" ({gigabytes(answer.get('size_gb'))})", as_json=as_json)


def _better(error: RefusedError, gateway: Gateway, model: str) -> CliError:
    """The route has one status for all failures. A name with an organisation may be one of the hub, of which only the
    gateway can say what is wrong."""
    unknown = unknown_model(gateway, model) if error.status in (404, 500) else None
    if unknown is None:
        return error
    if "/" not in model:
        return unknown
    hint = unknown.message.partition(": ")[2]
    return CliError(f"{error.message} ({hint})" if hint.startswith("did") else error.message, ExitCode.FAILED)
