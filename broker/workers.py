"""The workers' socket: what workers send becomes events, and what the broker has for them is sent. Decides nothing."""

import logging
from collections.abc import Callable, Iterator
from typing import assert_never

from broker.policy.events import (
    Event,
    HeartbeatArrived,
    MemoryNeeded,
    OutputsArrived,
    PrefillWanted,
    WorkerBecameReady,
    WorkerConnected,
    WorkerFailedToLoad,
    WorkerProgressed,
)
from broker.processes.launcher import Sample
from broker.sockets import Router
from broker.wire.body import Body, ProtocolError
from broker.wire.codec import decode, encode
from broker.wire.frames import NO_REQUEST
from broker.wire.from_peers import Heartbeat, Hello
from broker.wire.from_workers import FromWorker, LoadFailed, Need, Prefill, Progress, Ready
from broker.wire.outputs import ERROR, FINAL, Outputs

logger = logging.getLogger(__name__)

_ENDS = (FINAL, ERROR)


class Workers:
    """sample: what the process of a worker takes now, None if that is not known."""

    def __init__(self, router: Router, sample: Callable[[str], Sample | None]) -> None:
        self.router = router
        self._sample = sample

    def receive(self, limit: int) -> Iterator[Event]:
        """The events of up to `limit` messages that are here now."""
        for identity, frames in self.router.receive(limit):
            try:
                event = self._event(identity, frames)
            except ProtocolError as error:
                logger.warning("dropped a message of worker %r: %s", identity[:32], error)
            else:
                yield event

    def send(self, worker_id: str, body: Body, request_id: bytes = NO_REQUEST) -> None:
        """A worker that cannot be reached has died: all that follows comes with its exit."""
        self.router.send(worker_id.encode(), encode(body, request_id))

    def _event(self, identity: bytes, frames: list[bytes]) -> Event:
        body = decode(frames).body
        # The heartbeat thread has a socket of its own: `<worker id>/heartbeat`.
        worker_id = str(identity, "utf-8", "replace").partition("/")[0]
        if isinstance(body, Outputs):  # nearly every message: asking the union first would cost as much as the rest
            entries = [(request_id, kind in _ENDS) for request_id, kind in body.entries]
            return OutputsArrived(worker_id, entries, frames)
        if not isinstance(body, FromWorker):
            raise ProtocolError(f"a worker does not send {body.COMMAND.decode()}")
        match body:
            case Heartbeat():
                memory = (body.mlx_active_bytes, body.mlx_cache_bytes, body.mlx_peak_bytes)
                stages = (body.live, body.waiting, body.prefilling)
                tokens = (body.generation_tokens, body.prompt_tokens, body.cached_prompt_tokens)
                disk = (body.disk_bytes, body.disk_files, body.disk_hits, body.disk_queue_bytes)
                launches = (body.decode_steps, body.late_steps)
                return HeartbeatArrived(worker_id, body.steps, *memory, *stages, *tokens, *disk, *launches)
            case Hello():
                return WorkerConnected(worker_id)
            case Progress():
                known = (body.working_set_bytes, body.done_bytes, body.total_bytes)
                return WorkerProgressed(worker_id, body.stage, body.fraction, *known)
            case Ready():
                sample = self._sample(worker_id)
                measured = max(body.mlx_active_bytes, sample.footprint_bytes if sample is not None else 0)
                beside = measured - min(measured, body.mlx_active_bytes)
                return WorkerBecameReady(worker_id, measured, body.context_length, beside, body.working_set_bytes)
            case Need():
                return MemoryNeeded(worker_id, body.share_bytes, body.least_bytes, body.must_bytes)
            case Prefill():
                return PrefillWanted(worker_id, body.wanted)
            case LoadFailed():
                return WorkerFailedToLoad(worker_id, body.message, body.code)
            case _:
                assert_never(body)
