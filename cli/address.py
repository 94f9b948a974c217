"""Where a gateway is, and which key it gets: from --url and the environment, checked. Keys are never part of a line."""

import os
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from cli.errors import CliError, ExitCode

DEFAULT_URL = "http://127.0.0.1:8080"
ADMIN_KEY = "MLX_BROKER_ADMIN_TOKEN"
API_KEY = "MLX_BROKER_API_KEY"


@dataclass(slots=True, frozen=True)
class Address:
    """A gateway's. prefix: of all its paths, where a proxy has put it below one."""

    https: bool
    host: str
    port: int
    prefix: str


def address_of(url: str) -> Address:
    """Raises CliError for what is no such URL."""
    problem = CliError(f"--url must be like {DEFAULT_URL}, not {url.rpartition('@')[2]!r}", ExitCode.USAGE)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
        prefix = quote(parts.path.rstrip("/"), safe="/%")
    except ValueError as error:  # also one of the codec's
        raise problem from error
    is_whole = parts.scheme in ("http", "https") and host and not any(letter.isspace() for letter in host)
    if not is_whole or parts.query or parts.fragment:
        raise problem
    if "@" in parts.netloc:
        raise CliError(f"--url takes no user and password: put the key into {ADMIN_KEY} or {API_KEY}", ExitCode.USAGE)
    https = parts.scheme == "https"
    return Address(https, host, port or (443 if https else 80), prefix)


def wanted_key(path: str) -> str:
    """The variable whose key this route wants."""
    return ADMIN_KEY if path.startswith("/admin") else API_KEY


def key_for(path: str) -> tuple[str, str]:
    """The variable that has the key for this route, and the key, empty if there is none. Either variable is enough
    where both keys are the same. Raises CliError for a key that no header can hold."""
    first = wanted_key(path)
    second = API_KEY if first == ADMIN_KEY else ADMIN_KEY
    name = first if os.environ.get(first) or not os.environ.get(second) else second
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise CliError(f"{name} must be printable ASCII", ExitCode.USAGE)
    return name, key
