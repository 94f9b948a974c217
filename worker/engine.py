"""The interface of an engine, and where engines are found. Knows no model family.

An engine owns one loaded model. The service (worker/service.py) calls it from one thread only, because MLX streams
belong to a thread: `add` a request, `step` while there is work, `cancel` when the client has left. An engine never
sees sockets, gateways or the broker.

Must stay free of mlx: an engine without a model must not pay for its import.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from broker.wire.failure import invalid
from broker.wire.kinds import KINDS, TEXT
from broker.wire.outputs import Output
from broker.wire.to_workers import Assign
from worker.ahead import Prepare
from worker.memory.plan import Wish

# Called while loading: the stage ("weights", "tokenizer", ...) and its fraction done, None if unknown. Each call counts
# as progress for the stall timeout, so an engine must call it at least every few seconds.
Report = Callable[[str, float | None], None]

# From the payload of a Generate to the tokens that its prompt has, whatever the context: first perhaps some None, each
# after a bounded piece of work, then the number. The engine stays as it is. Raises as `add` does.
Count = Callable[[bytes], Iterator[int | None]]

# The kind of model whose engine a spare imports: that takes most of the time from a new process to a loaded model.
_SPARE_KIND = TEXT


@dataclass(slots=True, frozen=True)
class ModelFacts:
    """Facts about a loaded model: bytes of its parameters; tokens of its context, 0 if unknown; whether what its steps
    launch is computed by the CPU, in one thread."""

    weights_bytes: int
    context_length: int = 0
    one_cpu_thread: bool = False


@dataclass(slots=True, frozen=True)
class MemoryFacts:
    """Bytes in this process, as the engine's library counts them."""

    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0


@dataclass(slots=True, frozen=True)
class EngineStats:
    """What an engine is doing. live: requests that have not ended; waiting, prefilling, decoding: the same by stage;
    cached_entries, cached_tokens, cached_bytes: of the prompt cache; waiting_for_room: those of the waiting that have
    no memory yet. generation_tokens, prompt_tokens: all that were computed since the model was loaded, warming up left
    out; cached_prompt_tokens: those of prompt_tokens that came from the prompt cache. disk_bytes, disk_files: of the
    prompt cache on disk; disk_hits: prompts that got a part from there; disk_queue_bytes: what is still to be written
    there. decode_steps: steps of decode that were launched behind another; late_steps: those of them for which the
    device may have waited. What an engine does not have is 0."""

    live: int = 0
    waiting: int = 0
    prefilling: int = 0
    decoding: int = 0
    cached_entries: int = 0
    cached_tokens: int = 0
    cached_bytes: int = 0
    waiting_for_room: int = 0
    generation_tokens: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    disk_bytes: int = 0
    disk_files: int = 0
    disk_hits: int = 0
    disk_queue_bytes: int = 0
    decode_steps: int = 0
    late_steps: int = 0


class MemoryShare(Protocol):
    """The share of memory of an engine, in bytes as MLX counts them. Called from the engine's thread, `waiting` from
    any."""

    @property
    def waiting(self) -> int:
        """How many requests wait for memory."""

    def granted(self, share_bytes: int, limit_bytes: int) -> None:
        """The broker has set the share, and says what it can be at most, 0 if it does not know."""

    def shrink(self, share_bytes: int) -> None:
        """Others wait for memory: come down to this share, at once by what is not in use, and later as requests end.
        Until the next share, nothing may begin that needs more."""

    def wish(self) -> Wish | None:
        """What the broker should be told now, if it is news."""


class Engine(Protocol):
    """One loaded model. All methods but `memory` and `stats` are called from the thread that made the engine.

    An engine whose memory grows with its requests has one more member, `room`: a MemoryShare. One that can go on to
    decode without prefill has `hold_prefill(is_held)`: after True, steps only decode, until False. One that can count
    prompts has `count(payload)`: see Count. One that can write prompts before their requests are added has
    `prepare(payload)`, which another thread calls: see Ahead. Meanwhile the engine steps, and `add` is called for
    requests alone that have been prepared. One that caches prompts has `forget()`. One that must finish something
    before its process ends has `close()`, which takes a second at most.
    """

    @property
    def facts(self) -> ModelFacts:
        """Fixed after loading."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""

    def add(self, request_id: bytes, payload: bytes) -> None:
        """Take one request; payload: packed, as the gateway sent it. Raises FailureError if it cannot be served, or
        ProtocolError from decoding the payload."""

    def step(self) -> list[Output]:
        """One bounded unit of work for all requests together; their outputs. Exactly one of the outputs of a request
        is FINAL or ERROR, and it is the last."""

    def cancel(self, request_id: bytes) -> None:
        """Drop a request before the next step; an unknown id is ignored. The service sends the ERROR."""

    def memory(self) -> MemoryFacts:
        """May be called from any thread, also during a step."""

    def stats(self) -> EngineStats:
        """Cheap. May be called from any thread; during a step each number is right at some moment, and between steps
        all of them together."""


def load_engine(assign: Assign, report: Report) -> Engine:
    """The engine for an assigned model, loaded. Any error while loading is raised unchanged."""
    engine: Engine = import_engine(assign)(assign, report)
    return engine


def import_engine(assign: Assign) -> Callable[[Assign, Report], Any]:
    """The class of the engine for an assigned model.

    An engine is `module:Class`; the class is called with (assign, report). Only the settings of this machine can name
    one, never a model's own files.
    """
    module_name, _, class_name = (assign.engine or _engine_of(assign.model_type)).partition(":")
    here = str(Path.cwd())
    if assign.engine and sys.flags.safe_path and here not in sys.path:  # `mlx-broker serve`: it comes last, not first
        sys.path.append(here)
    engine_class: Callable[[Assign, Report], Any] = getattr(import_module(module_name), class_name)
    return engine_class


def share_of(engine: Engine) -> MemoryShare | None:
    """The share of an engine, if its memory grows with its requests."""
    share: MemoryShare | None = getattr(engine, "room", None)
    return share


def holder_of(engine: Engine) -> Callable[[bool], None]:
    """What keeps an engine from prefill; nothing does for one whose steps are all of one kind."""
    hold: Callable[[bool], None] = getattr(engine, "hold_prefill", lambda _is_held: None)
    return hold


def counter_of(engine: Engine) -> Count:
    """How this engine counts prompts. Raises FailureError for one that cannot."""
    count: Count | None = getattr(engine, "count", None)
    if count is None:
        raise invalid("this model's engine cannot count tokens", param="model")
    return count


def preparer_of(engine: Engine) -> Prepare | None:
    """What writes prompts ahead; None for an engine that takes requests in as a whole."""
    prepare: Prepare | None = getattr(engine, "prepare", None)
    return prepare


def closer_of(engine: Engine) -> Callable[[], None]:
    """What this engine finishes before its process ends; nothing for most."""
    close: Callable[[], None] = getattr(engine, "close", lambda: None)
    return close


def forgetter_of(engine: Engine) -> Callable[[], None]:
    """What makes this engine forget its cached prompts; nothing for one that has none."""
    forget: Callable[[], None] = getattr(engine, "forget", lambda: None)
    return forget


def import_for_spare() -> None:
    """Import what most models need, before one is assigned."""
    import_module(_engine_of(_SPARE_KIND).partition(":")[0])
    import_module("worker.text.warm_up").touch_device()  # by name: this module must not import mlx


def working_set_bytes() -> int:
    """What Metal may use on this machine, as it recommends; 0 if there is no Metal or MLX has not been imported."""
    return int(import_module("worker.loading.device").working_set_bytes()) if "mlx.core" in sys.modules else 0


def _engine_of(model_type: str) -> str:
    kind = KINDS.get(model_type)
    if kind is None:
        raise ValueError(f"there is no engine for models of type {model_type!r}")
    return kind.engine
