"""Peers that send nonsense to either of the broker's sockets: it is logged and dropped, and the service goes on."""

import os
import re
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq

from broker.wire.body import Body
from broker.wire.codec import decode, encode
from broker.wire.frames import VERSION
from broker.wire.from_gateways import Cancel, Goodbye, InferenceRequest, InferenceRequests, Load, Status
from broker.wire.from_peers import Ack, Heartbeat, Hello
from broker.wire.from_workers import LoadFailed, Progress, Ready
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, Outputs, decode_outputs, encode_outputs
from broker.wire.packing import pack
from broker.wire.paths import GATEWAY_SOCKET, WORKER_SOCKET
from broker.wire.work import Generate
from tests.conftest import ECHO
from tests.end_to_end.nonsense import BODIES, STRANGER
from tests.service import Service, wait_until

MODELS = {"echo": ECHO, "other": ECHO, "slow": ECHO | {"options": {"delay_seconds": 0.02}}}
TEXT = "".join(f"{number:04}" for number in range(50))  # 50 tokens to the echo engine: a second of `slow`

REQUEST_ID = b"R" * 16
LARGE = bytes(64 * 2**20)

# Frames that are wrong from any peer.
GARBAGE: list[list[bytes]] = [
    [b""],
    [b"GET / HTTP/1.1\r\n\r\n"],
    [b"", b"", b"", b""],
    [b"x"] * 1000,
    [VERSION],
    [VERSION, b"STATUS", REQUEST_ID],
    [b"MB2", b"STATUS", REQUEST_ID, b"\x80"],
    [VERSION, b"NOTHING", REQUEST_ID, b"\x80"],
    [VERSION, b"\xff\xfe", REQUEST_ID, b"\x80"],
    [VERSION, b"STATUS", REQUEST_ID, b"\x80", b"one frame more"],
    [VERSION, b"REQUEST", REQUEST_ID, msgpack.packb({"model": "echo"})],
    [VERSION, b"REQUESTS", b"", msgpack.packb({"model": "echo"})],
    [VERSION, b"REQUESTS", b"", msgpack.packb({"model": "echo", "request_ids": [REQUEST_ID], "origins": [b""]})],
    [VERSION, b"REQUESTS", b"", msgpack.packb({"model": "echo", "request_ids": [1], "origins": [b""]}), b""],
    [VERSION, b"REQUESTS", b"", msgpack.packb({"model": "echo", "request_ids": [REQUEST_ID], "origins": [b""]}), b""],
    [VERSION, b"STATUS", b"short", b"\x80"],
    [VERSION, b"STATUS", REQUEST_ID * 2, b"\x80"],
    [VERSION, b"LOAD", REQUEST_ID, b""],
    [VERSION, b"LOAD", REQUEST_ID, b"\xc1"],
    [VERSION, b"LOAD", REQUEST_ID, b"\x81\xa5model\xa2\xff\xfe"],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb({"model": "echo"}) + b"\x00"],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb("echo")],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb({})],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb({"model": 7})],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb({"model": "echo", "extra": 1})],
    [VERSION, b"LOAD", REQUEST_ID, msgpack.packb({1: 2})],
    [VERSION, b"LOAD", REQUEST_ID, b"\x91" * 100_000],
    [VERSION, b"LOAD", REQUEST_ID, b"\xdf\xff\xff\xff\xff"],  # claims to be a map of 4 billion entries
    [VERSION, b"ACK", b"", msgpack.packb({"total": True})],
    [VERSION, b"HEARTBEAT", b"", msgpack.packb({"steps": 1.5})],
    [VERSION, b"OUTPUTS", b"", b"\x90"],
    [VERSION, b"OUTPUTS", REQUEST_ID, b"\x90"],
    [VERSION, b"OUTPUTS", REQUEST_ID + b"\x03", b"\x90"],
    [VERSION, b"OUTPUTS", REQUEST_ID + b"\x00" + b"S" * 16 + b"\x00", b"\x90"],
    [LARGE],
    [VERSION, b"LOAD", REQUEST_ID, LARGE],
    [VERSION, LARGE, REQUEST_ID, b"\x80"],
    [VERSION, b"OUTPUTS", LARGE, b"\x90"],
]


class Peer:
    """A raw socket at one of the broker's endpoints. As a gateway it can `ask`; every wait is bounded."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", service: Service, name: str, identity: bytes) -> None:
        self.identity = identity
        self._count = 0
        self._socket = context.socket(zmq.DEALER)
        self._socket.identity = identity
        self._socket.linger = 0
        self._socket.rcvtimeo = self._socket.sndtimeo = 10_000
        self._socket.connect(f"ipc://{service.directory / 'run' / name}")

    def close(self) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def say(self, body: Body, request_id: bytes = b"") -> None:
        self.send(*encode(body, request_id))

    def begin(self, body: Body) -> bytes:
        """Send it under a new request id and return the id."""
        self._count += 1
        request_id = self.identity + self._count.to_bytes(8, "big")
        self.say(body, request_id)
        return request_id

    def outputs(self, request_id: bytes) -> Iterator[Output]:
        """The outputs of one request up to its end; any other message must be a heartbeat."""
        while True:
            body = decode(self._socket.recv_multipart()).body
            if isinstance(body, Heartbeat):
                continue
            assert isinstance(body, Outputs)
            for output in decode_outputs(body):
                assert output.request_id == request_id
                yield output
                if output.kind != PARTIAL:
                    return

    def ask(self, body: Body) -> Output:
        *_, last = self.outputs(self.begin(body))
        return last


@pytest.fixture
def connect() -> Iterator[Callable[..., Peer]]:
    """`connect(service, socket name, identity)`: a Peer, closed after the test."""
    context = zmq.Context()
    peers: list[Peer] = []

    def make(service: Service, name: str = GATEWAY_SOCKET, identity: bytes | None = None) -> Peer:
        peer = Peer(context, service, name, identity or secrets.token_hex(4).encode())
        peers.append(peer)
        if name == GATEWAY_SOCKET:
            peer.say(Hello())
        return peer

    yield make
    for peer in peers:
        peer.close()
    context.term()


@pytest.fixture
def broker(make_service: Callable[..., Service]) -> Service:
    service = make_service(start=False, models=MODELS)
    service.start_broker()
    return service


def echo(text: str, model: str = "echo") -> InferenceRequest:
    return InferenceRequest(model, pack(Generate(prompt=text, stream=True)))


def text_of(outputs: Iterator[Output]) -> str:
    parts = list(outputs)
    assert parts[-1].kind == FINAL, parts[-1]
    return "".join(part.body["text"] for part in parts)


def dropped(service: Service) -> int:
    return service.log("broker").count("dropped")


def worker_of(service: Service, model_id: str) -> str:
    """The identity of the worker that serves this model."""
    found: list[str] = re.findall(rf"(w\d+-\w+) loads {model_id}\n", service.log("broker"))
    return found[-1]


@pytest.mark.parametrize("name", [GATEWAY_SOCKET, WORKER_SOCKET])
def test_garbage_is_dropped_and_logged(broker: Service, connect: Callable[..., Peer], name: str) -> None:
    gateway, stranger = connect(broker), connect(broker, name)
    stream = gateway.begin(echo(TEXT, "slow"))
    outputs = gateway.outputs(stream)
    assert next(outputs).kind == PARTIAL
    for frames in GARBAGE:
        stranger.send(*frames)
    assert TEXT[4:] == text_of(outputs)
    wait_until(lambda: dropped(broker) == len(GARBAGE), what="a line for everything dropped")
    assert gateway.ask(Status()).kind == FINAL
    assert broker.log("broker").count("\n") < 2 * len(GARBAGE)


def test_a_gateway_cannot_speak_as_a_worker_or_as_another_gateway(
    broker: Service, connect: Callable[..., Peer]
) -> None:
    gateway, thief = connect(broker), connect(broker)
    stream = gateway.begin(echo(TEXT, "slow"))
    outputs = gateway.outputs(stream)
    assert next(outputs).kind == PARTIAL
    thief.say(Cancel(), stream)
    thief.say(echo("mine"), stream)
    both = [thief.identity + bytes(8), stream]
    thief.say(InferenceRequests.joined(both, [echo("mine"), echo("too")]))  # neither of them counts
    thief.say(Load("echo"), stream)
    thief.say(Load("echo"))  # without a request id
    thief.send(*encode_outputs([Output(stream, FINAL, {"text": "forged"})]))
    thief.say(Ready(1))
    thief.say(Heartbeat())
    thief.say(Cancel(), thief.identity + bytes(8))  # its own id, but no such request: nothing to do or to log
    wait_until(lambda: dropped(broker) == 8, what="8 lines")
    assert thief.ask(echo("honest")).kind == FINAL
    assert TEXT[4:] == text_of(outputs)
    assert text_of(gateway.outputs(gateway.begin(echo("again")))) == "again"

    # The same id twice: one request, one end.
    twice = gateway.begin(echo(TEXT, "slow"))
    gateway.say(echo(TEXT, "slow"), twice)
    assert text_of(gateway.outputs(twice)) == TEXT
    for payload in (b"", b"\xc1", pack(Status()), pack(Generate()), LARGE):
        assert gateway.ask(InferenceRequest("echo", payload)).kind == ERROR
    assert gateway.ask(Load("x" * 1_000_000)).body["code"] == "model_not_found"


def test_a_gateway_that_was_dropped_is_ignored_until_its_next_hello(
    broker: Service, connect: Callable[..., Peer]
) -> None:
    gateway = connect(broker)
    assert gateway.ask(Status()).kind == FINAL
    gateway.say(Goodbye())
    gateway.say(Ack(1))  # for messages from before: not worth a log line
    gateway.begin(echo("unheard"))
    wait_until(lambda: dropped(broker) == 1, what="a line for what was dropped")
    gateway.say(Hello())
    assert text_of(gateway.outputs(gateway.begin(echo("heard")))) == "heard"


def test_a_second_hello_cancels_what_the_gateway_had_asked_for(broker: Service, connect: Callable[..., Peer]) -> None:
    """As after a reconnect: no client waits for the earlier requests any more."""
    gateway, other = connect(broker), connect(broker)

    def in_flight() -> int:
        (slow,) = [m for m in other.ask(Status()).body["models"] if m["model_id"] == "slow"] or [{"in_flight": 0}]
        return int(slow["in_flight"])

    gateway.begin(echo(TEXT * 1000, "slow"))
    wait_until(lambda: in_flight() == 1, what="its request")
    gateway.say(Hello())
    wait_until(lambda: in_flight() == 0, what="the end of its request")


def test_a_worker_that_floods_the_broker_hides_no_exit(
    make_service: Callable[..., Service],
) -> None:
    flood = {"engine": "tests.end_to_end.nonsense:Flooding", "type": "echo"}
    service = make_service(models=MODELS | {"flood": flood})
    service.load("echo")
    service.load("other")
    assert service.chat("flood", max_tokens=1).status_code == 200
    os.kill(service.model("echo")["pid"], signal.SIGKILL)
    assert service.chat("other").status_code == 200
    assert service.chat("echo").status_code == 200
    assert service.model("echo")["last_exit"]["signal"] == "SIGKILL"


def test_a_peer_cannot_speak_as_a_worker(broker: Service, connect: Callable[..., Peer]) -> None:
    gateway = connect(broker)
    for model in ("slow", "other"):
        assert gateway.ask(Load(model)).kind == FINAL
    stream = gateway.begin(echo(TEXT, "slow"))
    outputs = gateway.outputs(stream)
    assert next(outputs).kind == PARTIAL

    forged = encode_outputs([Output(stream, FINAL, {"text": "forged"})])
    nobody = connect(broker, WORKER_SOCKET, b"w99-nobody")
    not_utf8 = connect(broker, WORKER_SOCKET, b"\xff\xfe\xfd")
    twin = connect(
        broker, WORKER_SOCKET, worker_of(broker, "slow").encode()
    )  # for two peers with one identity, ZeroMQ keeps the first
    other = connect(broker, WORKER_SOCKET, f"{worker_of(broker, 'other')}/x".encode())
    for peer in (twin, nobody, not_utf8, other):
        for body in (
            Hello(),
            Progress("weights", 0.5),
            Ready(1),
            LoadFailed("no"),
            Load("a"),
        ):
            peer.say(body)
        peer.send(*forged)
        peer.send(*encode_outputs([Output(STRANGER, FINAL, {"text": "for a stranger"})]))
    # Three lines from each: LOAD, which no worker sends, and both outputs.
    wait_until(lambda: dropped(broker) == 9, what="9 lines")
    assert TEXT[4:] == text_of(outputs)
    assert text_of(gateway.outputs(gateway.begin(echo("hello", "other")))) == "hello"
    states = {model["model_id"]: model["state"] for model in gateway.ask(Status()).body["models"]}
    assert states == {"slow": "ready", "other": "ready"}


@contextmanager
def healthy_stream(service: Service) -> Iterator[None]:
    """Meanwhile a stream from `slow`, which must arrive complete."""
    streams: list[Any] = []

    def read() -> None:
        with service.stream("slow", TEXT, max_tokens=100) as stream:
            streams.append(stream)
            stream.finish()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: streams, what="the stream")
        yield
    finally:
        reader.join(30)
    assert streams[0].text == TEXT * 2
    assert streams[0].done
    assert streams[0].error is None


def test_a_worker_that_talks_nonsense_harms_its_own_requests_only(make_service: Callable[..., Service]) -> None:
    # Paced, so that the request does not flood the broker until its CANCEL arrives.
    nonsense = {
        "engine": "tests.end_to_end.nonsense:Nonsense",
        "type": "echo",
        "options": {"delay_seconds": 0.005},
    }
    service = make_service(models=MODELS | {"nonsense": nonsense})
    assert service.chat("nonsense").status_code == 200
    pid = service.model("nonsense")["pid"]
    with healthy_stream(service):
        for text in (*BODIES, "shout"):
            refused = service.chat("nonsense", text, max_tokens=100_000)
            assert refused.status_code == 500, text
            assert refused.json()["error"]["type"] == "server_error"
            with service.stream("nonsense", text, max_tokens=100_000) as stream:
                body = stream.finish().response
            assert body.status_code == 500 or (stream.error is not None and stream.done), text
        wait_until(lambda: service.model("nonsense")["in_flight"] == 0, what="the end of what was cancelled")
        assert service.chat("nonsense", "sane", max_tokens=1).json()["choices"][0]["message"]["content"] == "sane"
    assert service.model("nonsense")["pid"] == pid
    assert dropped(service) >= 8
    assert "Traceback" not in service.log("broker")
