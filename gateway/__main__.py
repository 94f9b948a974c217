"""`python -m gateway`: settings, ports, logging, limits, run. With --check it ends once it knows that it can listen."""

import argparse
import contextlib
import gc
import logging
import resource
import sys
from collections.abc import Sequence

from broker.wire.listening import ListenError
from broker.wire.log_text import harmless
from broker.wire.logs import configure
from broker.wire.parents import has_lost_starter
from broker.wire.settings_file import SettingsError
from gateway.app import create_app
from gateway.http.server import Server, listeners
from gateway.link.client import BrokerClient
from gateway.settings import load_settings
from gateway.trace import current_trace

_OPEN_FILES = 10240  # the most that macOS grants; one per client


def main() -> int:
    """The exit code: 2 for settings that cannot be used, a port that is taken included."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Serves HTTP.")
    parser.add_argument(
        "--check", action="store_true", help="only say whether the settings are good and the ports free"
    )
    options = parser.parse_args()
    lost_starter = has_lost_starter()
    try:
        settings = load_settings()
        sockets = listeners(settings)
    except (SettingsError, ListenError) as error:
        return _refused(error.args)
    if options.check:
        return 0
    configure("gateway", settings.log_level, settings.log_format, hides_errors=True, current=current_trace)
    # uvicorn logs every step of a start; the announcement says the same in one line
    logging.getLogger("uvicorn.error").setLevel("DEBUG" if settings.log_level == "debug" else "WARNING")
    # It warns of bodies that are no forms, and tells every piece of the others. The client gets the error.
    logging.getLogger("python_multipart").setLevel("ERROR")
    _raise_file_limit()
    gc.freeze()  # imported modules stay for good
    link = BrokerClient(settings.broker_socket)
    server = Server(settings, create_app(settings, link), link, lost_starter)
    server.run(sockets)
    return _refused(server.mistakes) if server.mistakes else 0


def _refused(mistakes: Sequence[str]) -> int:
    sys.stderr.writelines(f"gateway: {harmless(mistake)}\n" for mistake in mistakes)
    return 2


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
