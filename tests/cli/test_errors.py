"""Whatever is wrong is one line that says what to do, and an exit code; never a traceback, never a key."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire.failure import Code
from broker.wire.from_gateways import Status
from cli.gateway import Gateway
from cli.main import COMMANDS
from tests.cli.played import PlayedService, played_service
from tests.cli.running import Command
from tests.cli.strangers import answer, stranger
from tests.service import free_port

HTML = "<html><body><h1>It works!</h1></body></html>"
KEY, TOKEN = "sk-very-secret", "admin-very-secret"


def only_line(err: str) -> str:
    """The one line on stderr, without the name of the command."""
    [line] = err.splitlines()
    assert line.startswith("mlx-broker: ")
    return line.removeprefix("mlx-broker: ")


@pytest.fixture(scope="module")
def locked() -> Iterator[PlayedService]:
    """A gateway with both keys."""
    with (
        tempfile.TemporaryDirectory(prefix="mlxb-") as directory,
        played_service(Path(directory), api_key=KEY, admin_token=TOKEN) as service,
    ):
        yield service


def test_no_gateway_says_how_to_start_one(cli: Command) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = cli(url, "ps")
    assert (result.code, result.out) == (3, "")
    told = f"no gateway at {url}: nothing listens there. Start one with `mlx-broker serve`, or give --url"
    assert only_line(result.err) == told


def test_the_url_may_stand_before_or_after_the_command(service: PlayedService, cli: Command) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert cli(nowhere, "--url", service.url, "ps").code == 0
    assert cli(nowhere, "ps", "--url", service.url).code == 0
    assert cli(None, "ps", "--url", f"{service.url}/").code == 0


def test_a_gateway_below_a_path(cli: Command) -> None:
    asked: list[bytes] = []
    with stranger(answer('{"models":[]}'), asked=asked) as url:
        assert cli(f"{url}/my%20proxy/mlx/", "ps").code == 0
    assert asked[0].startswith(b"GET /my%20proxy/mlx/admin/models/status HTTP/1.1\r\n")


def test_names_are_quoted_in_paths(cli: Command) -> None:
    asked: list[bytes] = []
    with stranger(answer('{"status":"pinned","model_id":"x"}'), asked=asked) as url:
        assert cli(url, "pin", "org/a b?c#d\r\n%41").code == 0
    assert asked[0].startswith(b"POST /admin/models/pin/org/a%20b%3Fc%23d%0D%0A%2541 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:8080", "--url must be like http://127.0.0.1:8080, not '127.0.0.1:8080'"),
        ("ftp://host", "--url must be like http://127.0.0.1:8080, not 'ftp://host'"),
        ("http://host:port", "--url must be like http://127.0.0.1:8080, not 'http://host:port'"),
        ("http://host:99999", "--url must be like http://127.0.0.1:8080, not 'http://host:99999'"),
        ("http://[::1", "--url must be like http://127.0.0.1:8080, not 'http://[::1'"),
        ("http://a..b", "--url must be like http://127.0.0.1:8080, not 'http://a..b'"),
        ("http://ho st", "--url must be like http://127.0.0.1:8080, not 'http://ho st'"),
        (
            "http://me:secret@host",
            "--url takes no user and password: put the key into MLX_BROKER_ADMIN_TOKEN or MLX_BROKER_API_KEY",
        ),
    ],
)
def test_an_address_that_is_none(cli: Command, url: str, told: str) -> None:
    result = cli(None, "ps", "--url", url)
    assert (result.code, only_line(result.err)) == (2, told)


def test_a_name_that_is_no_text(cli: Command) -> None:
    """The bytes of an argument that are not UTF-8 reach Python as lone surrogates."""
    told = "the name in /admin/models/pin/\\udcff must be UTF-8 text"
    with stranger(answer("{}")) as url:
        result = cli(url, "pin", "\udcff")
        assert (result.code, only_line(result.err)) == (2, told)
    result = cli(None, "ps", "--url", "http://host/\udcff")
    told = "--url must be like http://127.0.0.1:8080, not 'http://host/\\udcff'"
    assert (result.code, only_line(result.err)) == (2, told)


@pytest.mark.parametrize("command", [["rm", "--yes"], ["load"], ["run"], ["logs"], ["events"]])
def test_a_name_that_is_empty(service: PlayedService, cli: Command, command: list[str]) -> None:
    """As that of a variable which is not set."""
    result = cli(service.url, *command, "")
    told = f"Invalid value for 'MODEL': it must be the name of a model (see `mlx-broker {command[0]} --help`)"
    assert (result.code, only_line(result.err).replace("[MODEL]", "MODEL")) == (2, told)
    assert service.messages == []


def test_an_address_of_ipv6(cli: Command) -> None:
    result = cli("http://[::1]:1", "ps")
    assert only_line(result.err).startswith(("no gateway at http://[::1]:1: ", "http://[::1]:1 cannot be reached: "))


def test_a_host_that_nobody_knows(cli: Command) -> None:
    result = cli("http://nowhere.invalid", "ps")
    assert result.code == 3
    assert "the host of http://nowhere.invalid is not known" in only_line(result.err)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (answer(HTML, kind="text/html; charset=utf-8"), "GET /admin/models/status is answered with text/html"),
        (answer(HTML, "404 Not Found", "text/html"), "GET /admin/models/status is answered with 404, text/html"),
        (answer("[1, 2]"), "GET /admin/models/status is answered with application/json"),
        (answer('{"error":"oh"', "500 Oh"), "GET /admin/models/status is answered with 500, application/json"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n", "what it answers is not HTTP"),
        (
            answer("", "301 Moved", "text/html", "location: https://elsewhere/"),
            "it redirects /admin/models/status to https://elsewhere/; give --url the address that it means",
        ),
    ],
)
def test_something_else_listens_there(cli: Command, sent: bytes, told: str) -> None:
    with stranger(sent) as url:
        result = cli(url, "ps")
        assert (result.code, only_line(result.err)) == (3, f"{url} is no gateway of mlx-broker: {told}")


def test_a_proxy_whose_gateway_is_away(cli: Command) -> None:
    with stranger(answer(HTML, "502 Bad Gateway", "text/html")) as url:
        result = cli(url, "ps")
        told = f"a proxy at {url} answers 502 Bad Gateway: the gateway behind it does not answer"
        assert (result.code, only_line(result.err)) == (3, told)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "{url} closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "the connection to {url} was lost"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n",
            "the connection to {url} was lost",
        ),
    ],
)
def test_a_connection_that_ends_too_early(cli: Command, sent: bytes, told: str) -> None:
    with stranger(sent) as url:
        result = cli(url, "events")
        assert (result.code, only_line(result.err)) == (3, told.format(url=url))


def test_a_server_that_says_nothing(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with stranger(None) as url:
        monkeypatch.setattr(Gateway.__init__, "__defaults__", ("", 0.1))
        result = cli(url, "ps")
        assert (result.code, only_line(result.err)) == (3, f"{url} does not answer in time")


def test_https_where_there_is_none(cli: Command) -> None:
    with stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        https = url.replace("http:", "https:")
        result = cli(https, "ps")
        assert result.code == 3
        assert only_line(result.err).startswith(f"{https} does not speak HTTPS as it should: ")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (
            answer('{"detail":"GET /admin/models/status: there is no such path"}', "404 Not Found"),
            "the gateway at {url} has no GET /admin/models/status: it is older or newer than this command",
        ),
        (answer("{}"), "the gateway's answer has no list 'models': it is older or newer than this command"),
        (answer('{"models":[7]}'), "the gateway's answer has no list 'models': it is older or newer than this command"),
    ],
)
def test_a_gateway_of_another_version(cli: Command, sent: bytes, told: str) -> None:
    with stranger(sent) as url:
        result = cli(url, "ps")
        assert (result.code, only_line(result.err)) == (3, told.format(url=url))


def test_fields_that_a_gateway_lacks_or_has_more_are_no_problem(cli: Command) -> None:
    with stranger(answer('{"models":[{"model_id":"a","new":[1]},{}],"newer":{}}')) as url:
        result = cli(url, "ps")
        assert result.code == 0
        assert [line.split()[0] for line in result.out.splitlines()] == ["MODEL", "a", "-"]


def test_a_broker_that_is_away(service: PlayedService, cli: Command) -> None:
    service.refuses(Status, Code.BROKER_UNAVAILABLE, "the broker is not reachable")
    result = cli(service.url, "ps")
    told = f"the gateway at {service.url} answers, but the broker is not reachable: start it again, or see its log"
    assert (result.code, only_line(result.err)) == (3, told)


def test_keys_that_are_missing_or_wrong_and_are_never_shown(locked: PlayedService, cli: Command) -> None:
    locked.reset()
    missing = cli(locked.url, "ps")
    told = f"{locked.url} wants a key: put it into MLX_BROKER_ADMIN_TOKEN"
    assert (missing.code, only_line(missing.err)) == (4, told)
    wrong = cli(locked.url, "ps", MLX_BROKER_ADMIN_TOKEN=KEY)
    told = f"{locked.url} refuses the key in MLX_BROKER_ADMIN_TOKEN"
    assert (wrong.code, only_line(wrong.err)) == (4, told)
    other = cli(locked.url, "ps", MLX_BROKER_API_KEY=KEY)
    told = f"{locked.url} refuses the key in MLX_BROKER_API_KEY: it wants one in MLX_BROKER_ADMIN_TOKEN"
    assert (other.code, only_line(other.err)) == (4, told)
    assert cli(locked.url, "ps", MLX_BROKER_ADMIN_TOKEN=TOKEN).code == 0
    asked = cli(locked.url, "run", "org/tiny", "Hi", MLX_BROKER_ADMIN_TOKEN=TOKEN)
    told = f"{locked.url} refuses the key in MLX_BROKER_ADMIN_TOKEN: it wants one in MLX_BROKER_API_KEY"
    assert (asked.code, only_line(asked.err)) == (4, told)


@pytest.mark.parametrize("key", ["böse", "a\nb", "\x00"])
def test_a_key_that_no_header_can_hold(
    service: PlayedService, cli: Command, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("cli.address.os.environ", {"MLX_BROKER_ADMIN_TOKEN": key})  # also what no environment can hold
    result = cli(service.url, "ps", "--url", service.url)
    assert (result.code, only_line(result.err)) == (2, "MLX_BROKER_ADMIN_TOKEN must be printable ASCII")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pss"], "No such command 'pss'. Did you mean 'ps'? (see `mlx-broker --help`)"),
        (["ps", "--jsn"], "No such option: --jsn (Possible options: --json) (see `mlx-broker ps --help`)"),
        (["load"], "Missing argument 'MODEL' (see `mlx-broker load --help`)"),
        (["ps", "more"], "Got unexpected extra argument(s) (more) (see `mlx-broker ps --help`)"),
    ],
)
def test_what_cannot_be_meant(cli: Command, arguments: list[str], told: str) -> None:
    result = cli(None, *arguments)
    assert (result.code, result.out) == (2, "")
    assert only_line(result.err) == told


def test_help_names_every_command_and_every_command_has_help(cli: Command) -> None:
    whole = cli(None)
    assert whole.code == 0
    for name in COMMANDS:
        [told] = re.findall(rf"^  {name} +(.+)$", whole.out, re.MULTILINE)
        assert told.endswith("."), "it has room in its line"
        assert not told.endswith("...")
        own = cli(None, name, "--help")
        assert own.code == 0
        assert f"Usage: mlx-broker {name} " in own.out


def test_a_bug_is_one_line_too(service: PlayedService, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("cli.commands.ps.rows", broken)
    result = cli(service.url, "ps")
    assert result.code == 1
    assert only_line(result.err).startswith("this is a bug, please report it: KeyError: 'oh' in ")
