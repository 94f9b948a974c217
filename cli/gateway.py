"""The only module that speaks HTTP: JSON and server-sent events of one gateway, by the standard library's client,
which is imported in a quarter of the time of any other.

Whatever goes wrong becomes a CliError whose line says what and what to do. Keys come from the environment and are never
part of a line.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from cli.address import DEFAULT_URL, address_of, key_for, wanted_key
from cli.errors import CliError, ExitCode, RefusedError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# A gateway sends a comment into a silent stream every 10 s unless its settings say otherwise.
SILENCE_SECONDS = 120.0
MAX_BYTES = 64 * 2**20
_PIECE_BYTES = 65536

Json = dict[str, Any]


class Gateway:
    """Every call has a connection of its own. timeout: seconds without a byte; None waits for as long as it takes."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float | None = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._address = address_of(url)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """The JSON of a GET. Raises CliError."""
        return self._whole("GET", path, query)

    def post(self, path: str, query: Mapping[str, str] | None = None, body: Json | None = None) -> Json:
        """The JSON of a POST. Raises CliError."""
        return self._whole("POST", path, query, body)

    def delete(self, path: str) -> Json:
        """The JSON of a DELETE. Raises CliError."""
        return self._whole("DELETE", path)

    def waiting(self, timeout: float | None) -> "Gateway":
        """The same gateway with another timeout."""
        return Gateway(self.url, timeout)

    def events(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Json | None = None
    ) -> Iterator[Json]:
        """What a stream of server-sent events brings, one JSON object each, until its `[DONE]`. A plain JSON answer
        is one event. Raises CliError, also for an error inside the stream and for a stream that stops without an end.
        """
        with self._answer(method, path, query, body, SILENCE_SECONDS) as answer:
            if "text/event-stream" not in answer.getheader("content-type", ""):
                yield self._json(answer, method, path)
                return
            for data in self._data(answer):
                if data == "[DONE]":
                    return
                event = _object(data)
                if event is None:
                    raise self._foreign(f"an event of {path} is not JSON")
                if isinstance(event.get("error"), dict):
                    raise _framed(event["error"])
                yield event
        raise self._lost()

    def pieces(self, method: str, path: str, body: Json) -> Iterator[bytes]:
        """The body of an answer as it arrives, unread, for whoever measures. Raises CliError."""
        with self._answer(method, path, None, body, SILENCE_SECONDS) as answer:
            while piece := answer.read1(_PIECE_BYTES):
                yield piece

    def _whole(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Json | None = None) -> Json:
        with self._answer(method, path, query, body, self._timeout) as answer:
            return self._json(answer, method, path)

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        timeout: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer with a status below 400, unread. Errors of the connection are translated also while it is read."""
        connection = self._connection()
        answered = False
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            data = None if body is None else json.dumps(body, ensure_ascii=False).encode(errors="replace")
            target = f"{self._address.prefix}{_quoted(path)}{f'?{urlencode(query)}' if query else ''}"
            connection.request(method, target, data, self._headers(path, body))
            answer = connection.getresponse()
            if answer.status >= 300:
                raise self._refusal(answer, method, path)
            answered = True
            yield answer
        except OSError as error:
            raise (
                self._lost() if answered and isinstance(error, ConnectionError) else self._unreachable(error)
            ) from error
        except http.client.IncompleteRead as error:
            raise self._lost() from error
        except http.client.HTTPException as error:
            raise self._foreign("what it answers is not HTTP") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        seconds = min(CONNECT_SECONDS, self._timeout or CONNECT_SECONDS)
        make = http.client.HTTPSConnection if self._address.https else http.client.HTTPConnection
        return make(self._address.host, self._address.port, timeout=seconds)

    def _headers(self, path: str, body: Json | None) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "user-agent": "mlx-broker"}
        if body is not None:
            headers["content-type"] = "application/json"
        _name, key = key_for(path)
        if key:
            headers["authorization"] = f"Bearer {key}"
        return headers

    def _data(self, answer: http.client.HTTPResponse) -> Iterator[str]:
        """The data of each event."""
        lines: list[str] = []
        while raw := answer.readline(MAX_BYTES):
            text = raw.decode("utf-8", "replace").rstrip("\r\n")
            if text.startswith("data:"):
                lines.append(text.removeprefix("data:").removeprefix(" "))
            elif not text and lines:
                yield "\n".join(lines)
                lines = []

    def _json(self, answer: http.client.HTTPResponse, method: str, path: str) -> Json:
        body = _object(_read(answer))
        if body is None:
            raise self._foreign(f"{method} {path} is answered with {_kind(answer)}")
        return body

    def _refusal(self, answer: http.client.HTTPResponse, method: str, path: str) -> CliError:
        """The error of this answer."""
        status = answer.status
        if status < 400:
            to = answer.getheader("location", "another address")
            return self._foreign(f"it redirects {path} to {to}; give --url the address that it means")
        body = _object(_read(answer))
        message, code = _error_of(body)
        if message is None and status in (502, 503, 504):
            return CliError(
                f"a proxy at {self.url} answers {status} {answer.reason}: the gateway behind it does not answer",
                ExitCode.NO_GATEWAY,
            )
        if status == 401:
            return RefusedError(self._key_message(path), ExitCode.REFUSED, status, code)
        if message is None:
            return self._foreign(f"{method} {path} is answered with {status}, {_kind(answer)}")
        if status == 404 and message.startswith(f"{method} "):
            return CliError(
                f"the gateway at {self.url} has no {method} {path}: it is older or newer than this command",
                ExitCode.NO_GATEWAY,
            )
        if status == 403:
            return RefusedError(message, ExitCode.REFUSED, status, code)
        if status == 404:
            return RefusedError(message, ExitCode.NO_MODEL, status, code)
        if status == 503 and (away := self._broker_away()):
            return RefusedError(away, ExitCode.NO_GATEWAY, status, code)
        return RefusedError(message, ExitCode.FAILED, status, code)

    def _broker_away(self) -> str | None:
        """A line if the broker behind this gateway does not answer. A 503 alone can mean other things."""
        connection = self._connection()
        try:
            connection.request("GET", f"{self._address.prefix}/health", headers={"user-agent": "mlx-broker"})
            answer = connection.getresponse()
            body = _object(_read(answer)) or {}
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if answer.status != 503:
            return None
        why = body.get("detail", "the broker does not answer")
        return f"the gateway at {self.url} answers, but {why}: start it again, or see its log"

    def _key_message(self, path: str) -> str:
        name, key = key_for(path)
        wanted = wanted_key(path)
        if not key:
            return f"{self.url} wants a key: put it into {wanted}"
        return f"{self.url} refuses the key in {name}" + ("" if name == wanted else f": it wants one in {wanted}")

    def _unreachable(self, error: OSError) -> CliError:
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            return CliError(f"{self.url} closed the connection without an answer", ExitCode.NO_GATEWAY)
        if isinstance(error, ConnectionRefusedError):
            message = (
                f"no gateway at {self.url}: nothing listens there. Start one with `mlx-broker serve`, or give --url"
            )
        elif isinstance(error, socket.gaierror):
            message = f"the host of {self.url} is not known: give --url or MLX_BROKER_URL another address"
        elif isinstance(error, TimeoutError):
            message = f"{self.url} does not answer in time"
        elif type(error).__module__ == "ssl":
            message = f"{self.url} does not speak HTTPS as it should: {error.strerror or error}"
        else:
            message = f"{self.url} cannot be reached: {error.strerror or error}"
        return CliError(message, ExitCode.NO_GATEWAY)

    def _lost(self) -> CliError:
        return CliError(f"the connection to {self.url} was lost", ExitCode.NO_GATEWAY)

    def _foreign(self, why: str) -> CliError:
        return CliError(f"{self.url} is no gateway of mlx-broker: {why}", ExitCode.NO_GATEWAY)


def listed(answer: Json, field: str) -> list[Json]:
    """The objects in a list of an answer. Raises CliError if there is no such list: a gateway of another version."""
    entries = answer.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CliError(
            f"the gateway's answer has no list {field!r}: it is older or newer than this command", ExitCode.NO_GATEWAY
        )
    return entries


def _quoted(path: str) -> str:
    try:
        return quote(path)
    except UnicodeEncodeError as error:  # what the system hands over for bytes that are no text
        raise CliError(f"the name in {path} must be UTF-8 text", ExitCode.USAGE) from error


def model_path(action: str, model: str) -> str:
    """Of an admin route about one model."""
    return f"/admin/models/{action}/{model}"


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The whole body, up to a limit: whatever listens there may never stop."""
    data = answer.read(MAX_BYTES)
    if answer.length and len(data) < MAX_BYTES:
        raise http.client.IncompleteRead(data, answer.length)
    return data


def _object(data: bytes | str) -> Json | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error_of(body: Json | None) -> tuple[str | None, str | None]:
    """Message and code of an error's body, in the forms of the gateway's dialects."""
    if body is None:
        return None, None
    if isinstance(body.get("error"), dict):
        code = body["error"].get("code")
        return str(body["error"].get("message") or "no reason given"), None if code is None else str(code)
    for field in ("detail", "error"):
        if isinstance(body.get(field), str):
            return body[field], None
    return None, None


def _framed(error: Json) -> RefusedError:
    """The error inside a stream."""
    message, code = _error_of({"error": error})
    exit_code = {
        "broker_unavailable": ExitCode.NO_GATEWAY,
        "model_not_found": ExitCode.NO_MODEL,
        "not_loaded": ExitCode.NO_MODEL,
    }.get(code or "", ExitCode.FAILED)
    return RefusedError(message or "", exit_code, 200, code)


def _kind(answer: http.client.HTTPResponse) -> str:
    return answer.getheader("content-type", "no content type").partition(";")[0]
