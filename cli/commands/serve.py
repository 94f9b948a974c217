"""`serve`: broker and gateway on this machine, in the foreground or detached."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from cli.errors import CliError
from cli.gateway import Gateway
from cli.output import line
from cli.service.detach import detach
from cli.service.place import ServicePlace, find_place
from cli.service.record import Serving, TakenError, read, take
from cli.service.supervise import Pair, environment_of

_ASK_SECONDS = 3.0


def command(
    *,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="0: any free port. [default: 8080]", show_default=False),
    ] = None,
    models_dir: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The folder with models, beside the Hugging Face cache.")
    ] = None,
    preload: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Load and pin it at start. Can be given several times.")
    ] = None,
    in_background: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the service answers. `mlx-broker stop` ends it.")
    ] = False,
    log: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the models of this machine until Ctrl-C. Prepares a small demo model if there is none."""
    variables = {**os.environ, **_variables(host, port, models_dir, preload)}
    place = find_place(variables)
    _refuse_a_second_one(place)
    if (number := place.free_port()) is not None:
        variables["MLX_BROKER_PORT"] = str(number)
        place = find_place(variables)
    if log is None:  # else the one that has detached this one has done it
        _prepare_demo_model(variables)
    if in_background:
        pid = detach(place, variables)
        line(f"mlx-broker listens on {place.url} (pid {pid}), `mlx-broker stop` ends it")
        line(f"log: {place.log}")
        return
    try:
        take(place.record, Serving(os.getpid(), place.url, log))
    except TakenError as error:
        raise _taken(place, error.serving) from error
    raise typer.Exit(Pair(variables).run())


def _variables(host: str | None, port: int | None, models_dir: str | None, preload: list[str] | None) -> dict[str, str]:
    """The settings that the options stand for."""
    given = {
        "MLX_BROKER_HOST": host,
        "MLX_BROKER_PORT": None if port is None else str(port),
        "MLX_BROKER_MODELS_DIR": models_dir,
        "MLX_BROKER_PRELOAD_MODELS": ",".join(preload) if preload else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _refuse_a_second_one(place: ServicePlace) -> None:
    serving = read(place.record)
    pid = place.broker_pid()
    if serving is not None:
        raise _taken(place, serving)
    if pid is not None:
        raise CliError(
            f"a broker{f' (pid {pid})' if pid else ''} already runs in {place.runtime_dir}{_address(place)}: end it "
            "where it was started, or set MLX_BROKER_RUNTIME_DIR for a second one"
        )


def _taken(place: ServicePlace, serving: Serving | None) -> CliError:
    who = f"mlx-broker serve (pid {serving.pid}) already runs at {serving.url}" if serving else "it already runs"
    return CliError(
        f"{who}, in {place.runtime_dir}: end it with `mlx-broker stop` or Ctrl-C in its terminal, or set "
        "MLX_BROKER_RUNTIME_DIR and --port for a second one"
    )


def _address(place: ServicePlace) -> str:
    """Where its gateway answers, if it does so where these settings look for it."""
    if place.port:
        try:
            Gateway(place.url, timeout=_ASK_SECONDS).get("/health")
        except CliError:
            return ""
        return f", at {place.url}"
    return ""


def _prepare_demo_model(variables: dict[str, str]) -> None:
    """Raises typer.Exit if that fails; the process has said why."""
    command = [sys.executable, "-m", "demo", "--if-needed"]
    code = subprocess.run(command, env=environment_of(variables), check=False).returncode
    if code != 0:
        raise typer.Exit(code)
