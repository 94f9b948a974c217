"""What `doctor` finds out about a machine, as data. None stands for what the system does not say.

Pure: the probes fill it, verdicts.py judges it, and `--json` prints it as it is.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Rating(StrEnum):
    """FACT is neither good nor bad."""

    FACT = "fact"
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True, frozen=True)
class Finding:
    """One line of the report. advice: what to do about it. figures: the same as numbers, for `--json`."""

    name: str
    found: str
    rating: Rating = Rating.FACT
    advice: str = ""
    figures: dict[str, float | str | None] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class SystemFacts:
    """The machine. system: `macOS` or another name. release: as people write it, such as `15.3.1 (24D70)`."""

    system: str
    release: str
    arch: str
    chip: str | None = None
    model: str | None = None
    cores: int | None = None
    fast_cores: int | None = None
    is_translated: bool = False


@dataclass(slots=True, frozen=True)
class MachineMemory:
    """Bytes. pressure: `normal`, `warning` or `critical`. wired_limit_mb: `iogpu.wired_limit_mb`, 0 for the default."""

    total: int | None = None
    available: int | None = None
    wired: int | None = None
    swap_used: int | None = None
    swap_total: int | None = None
    pressure: str | None = None
    wired_limit_mb: int | None = None


@dataclass(slots=True, frozen=True)
class PowerFacts:
    """source: `AC Power` or `Battery Power`. sleep_minutes: 0 for never. held_by: what keeps the Mac awake now."""

    source: str | None = None
    battery_percent: int | None = None
    sleep_minutes: int | None = None
    held_by: str | None = None
    low_power: bool | None = None
    panics: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class PythonFacts:
    """libraries: name -> version, None if it is missing. wheels: name -> the platform tag of what pip installed."""

    version: str
    arch: str
    path: str
    libraries: dict[str, str | None]
    wheels: dict[str, str]


@dataclass(slots=True, frozen=True)
class MlxFacts:
    """What a process that imports MLX says. device: as MLX describes it. error: why it could not say anything."""

    metal: bool | None = None
    device: dict[str, int | str] = field(default_factory=dict)
    import_seconds: float | None = None
    error: str | None = None

    @property
    def working_set(self) -> int | None:
        """What Metal recommends, in bytes."""
        value = self.device.get("max_recommended_working_set_size")
        return value if isinstance(value, int) else None


@dataclass(slots=True, frozen=True)
class FolderFacts:
    """A folder of models. free: bytes on its disk. ignores_case: whether `Model` and `model` are one file there."""

    path: str
    exists: bool
    free: int | None = None
    ignores_case: bool | None = None


@dataclass(slots=True, frozen=True)
class ServiceFacts:
    """The settings that a service started here would have, and what it would find. error: why there is none."""

    budget: int | None = None
    budget_origin: str | None = None
    wired_memory: bool = False
    prefill_in_turns: bool = False
    blas_library: str | None = None
    runtime_dir: str = ""
    folders: tuple[FolderFacts, ...] = ()
    models: int = 0
    broken: tuple[tuple[str, str], ...] = ()
    version: str = "unknown"
    error: str | None = None


@dataclass(slots=True, frozen=True)
class SocketFacts:
    """Where the processes meet. path_bytes: of the longest socket path, of max_bytes at most. age_days: since the last
    change of the directory, None if it does not exist. sockets: how many are there. in_temporary: where a Mac
    deletes what is not read for three days."""

    path_bytes: int
    max_bytes: int
    age_days: float | None = None
    sockets: int = 0
    in_temporary: bool = False
    backlog: int | None = None
    buffer_bytes: int | None = None


@dataclass(slots=True, frozen=True)
class LimitFacts:
    """ulimit: open files and processes, soft and hard; None for no limit."""

    files: tuple[int | None, int | None]
    processes: int | None


@dataclass(slots=True, frozen=True)
class MachineReport:
    """All of it. ports: number -> `free`, or what listens there."""

    system: SystemFacts
    memory: MachineMemory
    power: PowerFacts | None
    python: PythonFacts
    mlx: MlxFacts
    service: ServiceFacts
    sockets: SocketFacts
    limits: LimitFacts
    ports: dict[int, str]
