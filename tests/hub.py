"""A small look-alike of the Hugging Face hub on loopback: a real HTTP server with the part of the hub's API that a
download uses. A test can make it misbehave.

Repositories are folders. Files of LFS_BYTES or more are served as the hub serves LFS files: by sha256, with ranges.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "c0ffee" + 34 * "0"
LFS_BYTES = 50_000
_PIECE = 1 << 20


class Hub:
    """repositories: `org/name` -> folder. refusals: `org/name` -> status and error code. sizes: file -> a wrong size to
    report. requests: (method, path, Range). keys: every Authorization header of these requests."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.refusals: dict[str, tuple[int, str]] = {}
        self.sizes: dict[str, int] = {}
        self.keys: set[str | None] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        # A download of weights pauses after this many bytes until `go_on` is set; None: never.
        self.stops_after: int | None = None
        self.go_on = threading.Event()
        self.stopped = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def ranges(self) -> list[str]:
        """The requested ranges in order."""
        return [asked for method, _path, asked in self.requests if method == "GET" and asked]


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(repositories)
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.hub.requests.append((self.command, "/".join(parts), self.headers.get("Range")))
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        folder = self.hub.repositories.get(name)
        if folder is not None:
            self.hub.keys.add(self.headers.get("Authorization"))
        if name in self.hub.refusals or folder is None:
            # The hub hides from strangers what exists: 401 in both cases.
            status, code = self.hub.refusals.get(name, (401, "RepoNotFound"))
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "refused"}, body=body)
        elif is_api and "tree" in parts:
            self._json([_tree_entry(folder, path) for path in _files(folder)])
        elif is_api:
            entries = [_tree_entry(folder, path) for path in _files(folder)]
            siblings = [
                {**entry, "rfilename": name, "blobId": entry["oid"], "size": self.hub.sizes.get(name, entry["size"])}
                for entry in entries
                for name in [entry["path"]]
            ]
            self._json({"_id": "1", "id": name, "sha": REVISION, "siblings": siblings})
        else:
            self._file(folder / "/".join(parts[4:]), folder, body=body)

    def _file(self, path: Path, folder: Path, *, body: bool) -> None:
        entry = _tree_entry(folder, path)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["oid"]
        content, status = path.read_bytes(), 200
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content, status = content[first:], 206
        self._send(status, content, headers, body=body, stops="lfs" in entry)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body=True)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool, stops: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        stop = self.hub.stops_after if stops else None
        try:
            for start in range(0, len(content), _PIECE):
                if stop is not None and start >= stop:
                    self.hub.stopped.set()
                    self.hub.go_on.wait(60)
                self.wfile.write(content[start : start + _PIECE])
        except OSError:  # the client has disconnected
            self.close_connection = True


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _tree_entry(folder: Path, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "oid": git, "size": len(content)}
    if len(content) >= LFS_BYTES:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 134}
    return entry
