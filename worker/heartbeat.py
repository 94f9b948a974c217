"""The signs of life of a worker, on a socket of their own. Must stay free of mlx."""

from contextlib import suppress
from time import sleep

import zmq

from broker.wire.codec import encode
from broker.wire.frames import send_frames
from worker.vitals import Vitals, heartbeat_of


def connect(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, identity: str) -> "zmq.Socket[bytes]":
    """A socket to the broker, by this identity."""
    socket = context.socket(zmq.DEALER)
    socket.identity = identity.encode()
    socket.linger = 0
    socket.connect(endpoint)
    return socket


def beat(endpoint: str, identity: str, vitals: Vitals, interval: float) -> None:
    """Send one every `interval` seconds, for ever. For a thread."""
    # Its own context: the main thread can end its context without waiting for this thread.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = connect(context, endpoint, identity)
    waited = 0
    while True:
        waited += vitals.waits_for_broker
        # If the broker is busy, this beat is not needed: the next one says as much.
        with suppress(zmq.Again):
            send_frames(socket, encode(heartbeat_of(vitals.engine, vitals.steps + waited)), wait=False)
        sleep(interval)
