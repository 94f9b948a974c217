"""What events, actions and records share: a model by its files, what people see of it, how a process ended."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.wire.kinds import Task
from broker.wire.states import State


@dataclass(slots=True, frozen=True)
class ModelSpec:
    """A model as its files and settings describe it, before it is loaded.

    weight_bytes: sum of the weight files. fingerprint: of these files, empty without any. keep_alive_seconds: None for
    the pool's default, negative for ever. memory_limit_bytes: what each of its processes may take, None to derive it
    from its share. ranks: how many processes run it together. recycle_after_requests, recycle_over_bytes: when another
    process takes the place of the one that serves, 0 for never. tasks: what it does by its files, empty for
    all that its type can.
    """

    model_id: str
    model_type: str
    path: str
    weight_bytes: int
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive_seconds: float | None = None
    memory_limit_bytes: int | None = None
    ranks: int = 1
    fingerprint: str = ""
    recycle_after_requests: int = 0
    recycle_over_bytes: int = 0
    tasks: frozenset[Task] = frozenset()


class KeepAlive(NamedTuple):
    """How long a model stays after its last use, as a request has stated it. order: the place of this statement, the
    last one counts. seconds: None: as it is set; negative: as long as there is room."""

    order: int
    seconds: float | None


class Shown(NamedTuple):
    """What people see of a model. fraction: of the stage."""

    state: State
    reason: str | None = None
    stage: str | None = None
    fraction: float | None = None


UNLOADED = Shown(State.UNLOADED)


@dataclass(slots=True, frozen=True)
class Exit:
    """How a process ended: code or signal name, wall-clock time (Unix s), the last lines of its stderr, and the request
    that it was taking in when it ended, None if there was none."""

    code: int | None
    signal: str | None
    at: float
    stderr_tail: str
    intake: bytes | None = None

    def describe(self) -> str:
        """`signal SIGKILL` or `exit code 1`, with the last line of stderr where there is one."""
        how = f"signal {self.signal}" if self.signal else f"exit code {self.code}"
        last_line = self.stderr_tail.strip().rpartition("\n")[2]
        return f"{how}: {last_line}" if last_line else how
