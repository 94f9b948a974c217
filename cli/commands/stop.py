"""`stop`: ends a detached `serve` of this machine."""

from cli.errors import CliError
from cli.output import line
from cli.service.place import find_place
from cli.service.record import end, read

STOP_SECONDS = 60.0


def command() -> None:
    """End what `serve --detach` has started. Waits until it has gone."""
    place = find_place()
    serving = read(place.record)
    if serving is None:
        pid = place.broker_pid()
        if pid is None:
            raise CliError(f"nothing runs in {place.runtime_dir}")
        raise CliError(
            f"the broker{f' (pid {pid})' if pid else ''} in {place.runtime_dir} was not started by `mlx-broker serve`: "
            "end it where it was started (make run, honcho, launchd)"
        )
    if not serving.is_detached:
        raise CliError(
            f"mlx-broker serve (pid {serving.pid}) runs in the foreground at {serving.url}: "
            "press Ctrl-C in its terminal"
        )
    if not end(place.record, STOP_SECONDS):
        raise CliError(f"the service (pid {serving.pid}) has not ended after {STOP_SECONDS:.0f} s: see {serving.log}")
    line(f"stopped the service at {serving.url} (pid {serving.pid})")
