"""Servers that are no gateway: each connection gets the same bytes, whatever it asks."""

import contextlib
import socket
import threading
from collections.abc import Iterator


def answer(body: str, status: str = "200 OK", kind: str = "application/json", *headers: str) -> bytes:
    """A whole answer."""
    data = body.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"content-type: {kind}",
        f"content-length: {len(data)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextlib.contextmanager
def stranger(*answers: bytes | None, asked: list[bytes] | None = None) -> Iterator[str]:
    """Its URL. answers: of its connections, the last one of all further ones; None: the connection stays open and
    silent. asked: gets what was sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            sent = answers[min(number, len(answers) - 1)]
            number += 1
            if sent is None:
                continue
            with contextlib.suppress(OSError):
                connection.settimeout(5)
                data = connection.recv(65536)
                if asked is not None:
                    asked.append(data)
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in kept:
            connection.close()
