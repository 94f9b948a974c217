import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from broker.wire import listening
from broker.wire.listening import ListenError, explain, holder_of, listen, ollama_port, port


def refused(number: int, host: str, to: int = 8080) -> str:
    return explain(OSError(number, os.strerror(number)), host, port(to))


def test_each_reason_says_what_to_do() -> None:
    assert refused(errno.EACCES, "127.0.0.1", 80) == (
        "port 80 may not be used: ports below 1024 are for root; choose another port with "
        "mlx-broker serve --port 9000, MLX_BROKER_PORT=9000 or make run PORT=9000"
    )
    assert refused(errno.EADDRNOTAVAIL, "192.0.2.1") == (
        "host 192.0.2.1 is not an address of this machine: choose 127.0.0.1, or 0.0.0.0 for all of its addresses, "
        "with --host or MLX_BROKER_HOST"
    )
    assert refused(errno.EMFILE, "127.0.0.1") == "cannot listen on port 8080 of 127.0.0.1: Too many open files"
    assert "by Ollama: stop what" in explain(OSError(errno.EADDRINUSE, ""), "", ollama_port(11434), "Ollama")
    assert "PORT=9001" in refused(errno.EADDRINUSE, "127.0.0.1", 9000)


def test_a_host_of_another_machine_and_one_that_nobody_knows() -> None:
    with pytest.raises(ListenError, match=r"^host 192\.0\.2\.1 is not an address of this machine: "):
        listen("192.0.2.1", [port(0)])
    with pytest.raises(ListenError, match=r"^host 'no such host' is not known: choose an address of this machine"):
        listen("no such host", [port(0)])


def test_what_was_opened_is_closed_when_a_later_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ASK_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        probe.close()
        with pytest.raises(ListenError, match=rf"^ollama_port {taken.getsockname()[1]} is taken: "):
            listen("127.0.0.1", [port(free), ollama_port(taken.getsockname()[1])])
        [again] = listen("127.0.0.1", [port(free)])
        again.close()


def test_every_address_of_a_host_that_this_machine_has() -> None:
    listeners = listen("localhost", [port(0)])
    assert "127.0.0.1" in [listener.getsockname()[0] for listener in listeners]
    for listener in listeners:
        listener.close()


def test_what_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ASK_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert holder_of("127.0.0.1", silent.getsockname()[1]) is None


def answering(body: bytes) -> Callable[[socket.socket], None]:
    """A server that gives every request this body, once for each connection."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    return serve


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"Ollama is running", "Ollama"),
        (b'{"status":"healthy"}', "another mlx-broker"),
        (b'{"status":"ok"}', None),
        (b"[]", None),
    ],
)
def test_who_has_a_port_is_asked(body: bytes, name: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=answering(body), args=[listener])
        serving.start()
        assert holder_of("127.0.0.1", listener.getsockname()[1]) == name
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
