"""Requests as clients send them, and what goes wrong with them: mutated bodies, mutated bytes, mutated headers.

`request_of(seed, number)` is always the same one.
"""

import copy
import gzip
import io
import json
import random
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.bodies import CHATS, FORM, MESSAGES, OLLAMA, RESPONSES, SAMPLING, SOUND, SPEECH

TEXT_MODELS = ("tiny-a", "echo", "bad")
ENCODER, RERANKER = "encoder", "reranker"
HEARS, SPEAKS = "hears", "speaks"

_LARGE = 100_000  # bytes: what is larger does not grow any more

Path = tuple[str | int, ...]

sys.setrecursionlimit(20_000)  # bodies nest deeper than the default


@dataclass(slots=True)
class Request:
    """Before it is bytes. is_form: the body's fields are sent as multipart/form-data. is_whole: whether all that the
    head announces is sent; where not, no answer is owed."""

    method: str
    path: str
    body: Any = None
    version: str = "HTTP/1.1"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    raw: bytes | None = None  # instead of the body
    is_form: bool = False
    is_whole: bool = True

    def packed(self) -> bytes:
        """The body."""
        return form_of(self.body) if self.is_form else json.dumps(self.body).encode()

    def encode(self) -> bytes:
        """As it is sent."""
        body = self.raw if self.raw is not None else self.packed() if self.body is not None else b""
        lengths = [value for name, value in self.headers if name.lower() == b"content-length" and value.isdigit()]
        is_chunked = any(value == b"chunked" for name, value in self.headers if name.lower() == b"transfer-encoding")
        self.is_whole = all(int(length) <= len(body) for length in lengths) and bool(body or not is_chunked)
        head = f"{self.method} {self.path} {self.version}\r\n".encode("utf-8", "surrogatepass")
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers)
        announced = (
            b""
            if any(n.lower() in (b"content-length", b"transfer-encoding") for n, _ in self.headers)
            else (b"Content-Length: %d\r\n" % len(body))
        )
        return head + lines + announced + b"\r\n" + body


_NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.0, 0.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 1e300, float("nan")),
    *("", "x", "\x00", "\ud800", "\u202e", "💥" * 20, "<|im_end|>", "<tool_call>", "[" * 1000, '{"a":' * 200, "1e999"),
    *("..", "none", "required", "NaN", "data:image/png;base64,AAAA", "http://127.0.0.1/", "y" * 3000),
    *([], [[]], [None], {}, {"": ""}, {"$ref": "#"}, {"type": "object"}, {"type": ["string", 1]}, {"__class__": "x"}),
)


_BOUNDARIES = (b"8", b"", b"77", b"7-", b"\xff", b'"7', b"7" * 71)


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(random.Random(7).randbytes(3200))
    return file.getvalue()


_SOUND = _sound()


def request_of(seed: int, number: int) -> Request:
    """The request of this number: a usual one, mutated once to five times."""
    rng = random.Random(f"{seed} {number}")
    request = _usual(rng)
    for _ in range(rng.randint(1, 5) if rng.random() < 0.95 else 0):
        if _size(request.body) > _LARGE:
            break
        if request.body is not None and rng.random() < 0.8:
            request.body = _mutated(request.body, rng)
        else:
            rng.choice(_HEADS)(request, rng)
    if request.body is not None and rng.random() < 0.1:
        request.raw = _torn(request.packed(), rng)
    elif request.body is not None and rng.random() < 0.05:
        request.raw = gzip.compress(request.packed(), mtime=0)
        request.headers.append((b"Content-Encoding", rng.choice((b"gzip", b"gzip", b"br", b"zstd"))))
    return request


def _usual(rng: random.Random) -> Request:
    kind = rng.random()
    if kind < 0.15:
        body, path = {"model": rng.choice(TEXT_MODELS), **rng.choice(RESPONSES)}, "/v1/responses"
    elif kind < 0.3:
        path = rng.choice(("/v1/messages", "/v1/messages?beta=true", "/v1/messages/count_tokens"))
        body = {"model": rng.choice(TEXT_MODELS), **rng.choice(MESSAGES)}
    elif kind < 0.4:
        path, asked = rng.choice(OLLAMA)
        body = {"model": rng.choice(TEXT_MODELS), **asked}
    elif kind < 0.6:
        body = {"model": rng.choice(TEXT_MODELS), **rng.choice(CHATS)}
        path = "/v1/chat/completions"
    elif kind < 0.75:
        prompt: Any = rng.choice(("Hi", ["Hi", "Ho"], [1, 2, 3], [[1], [2.0]]))
        body = {"model": rng.choice(TEXT_MODELS), "prompt": prompt, **SAMPLING, "logprobs": 1}
        path = "/v1/completions"
    elif kind < 0.85:
        body, path = (
            {"model": ENCODER, "input": ["a", "b"], "dimensions": 8, "encoding_format": "float"},
            "/v1/embeddings",
        )
    elif kind < 0.9:
        body, path = {"model": SPEAKS, **SPEECH}, "/v1/audio/speech"
    elif kind < 0.96:
        path = rng.choice(("/v1/audio/transcriptions", "/v1/audio/translations"))
        head = [(b"Host", b"x"), (b"Connection", b"close"), (b"Content-Type", b"multipart/form-data; boundary=7")]
        return Request("POST", path, {"model": HEARS, **copy.deepcopy(FORM)}, headers=head, is_form=True)
    elif kind < 0.98:
        body, path = {"model": RERANKER, "query": "q", "documents": ["a", "b"], "top_n": 1}, "/v1/rerank"
    else:
        paths = ("/v1/models", "/v1/models/tiny-a", "/admin/models/status", "/health", "/admin/models/../progress", "/")
        return Request("GET", rng.choice(paths), headers=[(b"Host", b"x"), (b"Connection", b"close")])
    if path not in ("/v1/embeddings", "/v1/rerank", "/v1/audio/speech"):
        body["stream"] = rng.random() < 0.5
    head = [(b"Host", b"x"), (b"Connection", b"close"), (b"Content-Type", b"application/json")]
    return Request("POST", path, copy.deepcopy(body), headers=head)  # mutations are made in place


def form_of(fields: Any) -> bytes:
    """The fields as parts, lists as several ones. A file is named by what it is to hold."""
    if not isinstance(fields, dict):
        return json.dumps(fields).encode()
    parts = [(name, one) for name, given in fields.items() for one in (given if isinstance(given, list) else [given])]
    return b"".join(_part(name, value) for name, value in parts) + b"--7--\r\n"


def _part(name: str, value: Any) -> bytes:
    text = (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")
    text = text.replace(SOUND.encode(), _SOUND, 1)
    named = name.encode("utf-8", "surrogatepass")
    return b'--7\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (named, text)


# ---- bodies --------------------------------------------------------------------------------------------------------


def _mutated(body: Any, rng: random.Random) -> Any:
    """The body with one place changed."""
    places = list(_places(body, ()))
    path = rng.choice(places)
    if not path:
        return copy.deepcopy(rng.choice(_NASTY)) if rng.random() < 0.05 else body
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    last, value = path[-1], holder[path[-1]]
    match rng.randrange(7):
        case 0 | 1 | 2:
            holder[last] = copy.deepcopy(rng.choice(_NASTY))  # the next mutation may change it
        case 3:
            del holder[last]
        case 4:
            holder[last] = _nested(value, rng)
        case 5:
            holder[last] = _stretched(value, rng)
        case _:
            other = body
            for step in rng.choice(places):
                other = other[step] if _has(other, step) else other
            holder[last] = copy.deepcopy(other)
    return body


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _places(value: Any, path: Path) -> list[Path]:
    found = [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in entries:
        found += _places(inner, (*path, step))
    return found[:300]


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _nested(value: Any, rng: random.Random) -> Any:
    for _ in range(rng.choice((1, 3, 40, 120))):
        value = [value] if rng.random() < 0.5 else {"properties": value, "type": "object"}
    return value


def _stretched(value: Any, rng: random.Random) -> Any:
    times = min(rng.choice((2, 20, 200)), 1 + _LARGE // _size(value))
    if isinstance(value, str):
        return (value * times)[:100_000]
    if isinstance(value, list):
        return (value * times)[:5000]
    if isinstance(value, dict):
        return {**value, **{f"{name}{n}": inner for name, inner in value.items() for n in range(times)}}
    return [value] * times


def _torn(body: bytes, rng: random.Random) -> bytes:
    """The bytes of a body, a few of them changed, lost or repeated."""
    torn = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(torn)) if torn else 0
        match rng.randrange(5):
            case 0:
                torn[place : place + 1] = bytes((rng.randrange(256),))
            case 1:
                torn[place:place] = rng.choice((b"{", b"[", b'"', b"\\u", b"\xff", b",", b"\x00", b"-", b"e9"))
            case 2:
                del torn[place : place + rng.randint(1, 20)]
            case 3:
                torn[place:place] = torn[place : place + rng.randint(1, 40)]
            case _:
                del torn[place:]
    return bytes(torn)


# ---- heads ---------------------------------------------------------------------------------------------------------


def _header(name: bytes, *values: bytes, replaces: bool = False) -> Callable[[Request, random.Random], None]:
    def change(request: Request, rng: random.Random) -> None:
        if replaces:
            request.headers = [line for line in request.headers if line[0].lower() != name.lower()]
        request.headers.append((name, rng.choice(values)))

    return change


def _other_method(request: Request, rng: random.Random) -> None:
    request.method = rng.choice(("GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "BREW", "post"))


def _other_version(request: Request, rng: random.Random) -> None:
    request.version = rng.choice(("HTTP/1.0", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9", "HTTP", ""))


def _other_path(request: Request, rng: random.Random) -> None:
    ends = ("/", "?a=%ff", "/../x", "%00", "%2e%2e", "\ud800", "#x", " x", "?" + "q" * 5000, "//", "é", "/x" * 200)
    request.path = rng.choice(
        (request.path + rng.choice(ends), "*", "http://x/v1/models", "", "//", "/v1/models/%2e%2e")
    )


def _less_headers(request: Request, rng: random.Random) -> None:
    del request.headers[rng.randint(0, len(request.headers)) :]


def _chunks(request: Request, rng: random.Random) -> None:
    body = request.packed()
    half = len(body) // 2
    parts = [body[:half], body[half:]] if half else [body]
    size = rng.choice((b"%x\r\n", b"%x\r\n", b"%X;a=b\r\n", b"0x%x\r\n", b"-%x\r\n"))
    request.raw = b"".join(size % len(part) + part + b"\r\n" for part in parts) + b"0\r\n"
    request.raw += rng.choice((b"\r\n", b"\r\n", b"X: 1\r\n\r\n", b"Host: y\r\n\r\n"))
    request.headers.append((b"Transfer-Encoding", rng.choice((b"chunked", b"chunked", b"Chunked", b"gzip, chunked"))))


def _other_length(request: Request, rng: random.Random) -> None:
    length = rng.choice(
        (b"0", b"1", b"-1", b"many", b"99999999999999999999", b"1" * 300, b"+2", b"5, 5", b"9000000000")
    )
    request.headers.append((b"Content-Length", length))


_HEADS: tuple[Callable[[Request, random.Random], None], ...] = (
    *(_other_method, _other_version, _other_path, _less_headers, _chunks, _other_length),
    _header(b"Host", b"x", b"y", b"", b"\xff"),
    _header(b"Content-Type", b"text/plain", b"multipart/form-data", b"\xff\xfe", replaces=True),
    _header(b"Content-Type", *(b"multipart/form-data; boundary=" + name for name in _BOUNDARIES), replaces=True),
    _header(b"Content-Encoding", b"gzip", b"zstd", b"br", b"identity", b"gzip, gzip", b"\xff"),
    _header(b"Transfer-Encoding", b"gzip", b"identity", b"chunked, gzip", b"\xff"),
    _header(b"TE", b"gzip", b"trailers"),
    _header(b"Expect", b"100-continue", b"200-ok"),
    _header(b"Upgrade", b"h2c", b"websocket"),
    _header(b"Connection", b"upgrade", b"keep-alive, close", b"\xff", b"close"),
    _header(b"Authorization", b"Bearer x", b"Basic \xff", b"Bearer"),
    _header(b"Origin", b"http://evil", b"null", b"\xff", b"http://[::1"),
    _header(b"X", b"", b"a" * 60_000, b"a" * 70_000, b"\x00", b"a\nb", b"\xff" * 100),
    _header(b"b\xffd", b"x"),
    _header(b"no colon\r\nX", b"x"),
    _header(b"Cookie", b"a" * 8000, b"=;=;="),
)
