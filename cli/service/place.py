"""Where the service of these settings is: its directories and its address, as broker and gateway will find them.

Reads the few settings that `serve` and `stop` need, unchecked: what is wrong with them, broker and gateway say.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.wire.listening import ListenError, Port, listen, ollama_port, port
from broker.wire.paths import GATEWAY_SOCKET, default_runtime_dir, default_state_dir
from broker.wire.settings_file import PREFIX, SettingsError, read_settings_file
from cli.errors import CliError, ExitCode

_DEFAULT_PORT = 8080
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared, not bound


@dataclass(slots=True, frozen=True)
class ServicePlace:
    """port, ollama_port: None if the settings name what is no number."""

    runtime_dir: Path
    state_dir: Path
    host: str
    port: int | None
    ollama_port: int | None

    @property
    def url(self) -> str:
        """The address for clients on this machine."""
        host = _ANY.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def record(self) -> Path:
        """The file of the `serve` that runs here."""
        return self.runtime_dir / "serve.json"

    @property
    def log(self) -> Path:
        """What a detached `serve` prints."""
        return self.state_dir / "serve.log"

    def broker_pid(self) -> int | None:
        """The process id of the broker that listens here, 0 if it is not known; None if none does."""
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(os.fspath(self.runtime_dir / GATEWAY_SOCKET))
            except OSError:
                return None
        with suppress(OSError, ValueError):
            return int((self.runtime_dir / "lock").read_text())
        return 0

    def free_port(self) -> int | None:
        """The port, if the gateway can listen there; one that is free now if it is 0. Raises CliError."""
        if self.port is None:
            return None
        ports: list[Port] = [port(self.port)]
        if self.ollama_port is not None:
            ports.append(ollama_port(self.ollama_port))
        try:
            listeners = listen(self.host, ports)
        except ListenError as error:
            raise CliError(str(error), ExitCode.USAGE) from error
        number: int = listeners[0].getsockname()[1]
        for listener in listeners:
            listener.close()
        return number


def find_place(environment: Mapping[str, str] = os.environ) -> ServicePlace:
    """The place that the environment and the settings file name. Raises CliError."""
    try:
        tables = {process: read_settings_file(process) for process in ("broker", "gateway")}
    except SettingsError as error:
        raise CliError(str(error).replace("\n", "; "), ExitCode.USAGE) from error

    def setting(process: str, name: str) -> Any:
        return environment.get(f"{PREFIX}{name.upper()}") or tables[process].get(name)

    return ServicePlace(
        runtime_dir=_path(setting("broker", "runtime_dir")) or default_runtime_dir(),
        state_dir=_path(setting("broker", "state_dir")) or default_state_dir(),
        host=str(setting("gateway", "host") or "127.0.0.1"),
        port=_number(setting("gateway", "port"), _DEFAULT_PORT),
        ollama_port=_number(setting("gateway", "ollama_port"), None),
    )


def _path(value: Any) -> Path | None:
    return Path(value).absolute() if isinstance(value, str) and value else None


def _number(value: Any, default: int | None) -> int | None:
    if value is None:
        return default
    with suppress(TypeError, ValueError, OverflowError):
        number = int(value)
        return number if 0 <= number <= 65535 else None
    return None
