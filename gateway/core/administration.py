"""What the broker answers about its models, as types. Pure. What it says beyond these fields is kept and passed on."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.wire.body import ProtocolError


class Report(BaseModel):
    """An answer of the broker."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=(), defer_build=True)


class LoadReport(Report):
    """The FINAL of LOAD and KEEP. size_bytes: what it takes in memory, 0 if it is not loaded."""

    model_id: str
    model_type: str
    size_bytes: int


class PullProgress(Report):
    """One PARTIAL of PULL. reason: why nothing arrives yet. fraction: None, and bytes 0, while they are not known."""

    model_id: str
    reason: str | None
    fraction: float | None
    done_bytes: int
    total_bytes: int


class PullReport(Report):
    """The FINAL of PULL. size_bytes: of the weight files."""

    model_id: str
    size_bytes: int


class UnloadReport(Report):
    """The FINAL of UNLOAD, PIN, UNPIN, CANCEL_PULL and REMOVE."""

    model_id: str


class ForgetReport(Report):
    """The FINAL of FORGET."""

    model_id: str | None


class KillReport(Report):
    """The FINAL of KILL."""

    model_id: str
    pid: int


class StateChange(Report):
    """One PARTIAL of WATCH. stage, fraction: of a load or a download, how far it is. at: Unix seconds."""

    model_id: str
    state: str
    reason: str | None = None
    stage: str | None = None
    fraction: float | None = None


class LogReport(Report):
    """An output of LOGS. lines: of each the time (Unix seconds), the pid of the process and the text."""

    lines: list[Annotated[tuple[float, int, str], Field(strict=False)]]

    @property
    def weight(self) -> int:
        """About the bytes that it occupies."""
        return sum(len(text) + 64 for _at, _pid, text in self.lines)


class ListedModel(Report):
    """One model of this machine. created: Unix seconds. capabilities: see docs/protocol.md; architecture: `model_type`
    of config.json; parameters: how many numbers it has, None if its files do not say so."""

    model_id: str
    model_type: str
    size_bytes: int
    quantization: str | None
    context_length: int
    state: str
    created: float
    capabilities: list[str] = []
    architecture: str | None = None
    parameters: int | None = None


class ModelsReport(Report):
    """The FINAL of MODELS."""

    models: list[ListedModel]


class HeldModel(ListedModel):
    """One model of this machine, for administrators."""

    pinned: bool


class BrokenModel(Report):
    """What looks like a model of this machine and cannot be used."""

    model_id: str
    path: str
    reason: str


class SearchedFolder(Report):
    """Where models are looked for."""

    path: str
    exists: bool


class CatalogReport(Report):
    """The FINAL of MODELS with what is broken."""

    models: list[HeldModel]
    broken: list[BrokenModel]
    folders: list[SearchedFolder]


class BrokerReport(Report):
    """The FINAL of DESCRIBE. has_metal: None while no process has said it. started_at: Unix seconds."""

    version: str
    pid: int
    started_at: float
    has_metal: bool | None
    settings: dict[str, Any]


class RereadReport(Report):
    """The FINAL of RELOAD_SETTINGS: names of settings, and of models whose own settings have changed."""

    applied: list[str]
    at_next_load: list[str]
    needs_restart: list[str]


class ResolveReport(Report):
    """The FINAL of RESOLVE. model_id: None if this machine has no such model. fetchable: a request would fetch it."""

    model_id: str | None
    fetchable: bool


class QueueTimes(Report):
    """How long requests have waited. counts: by class; bounds: the upper bounds of all classes but the last, in
    seconds; seconds: the sum."""

    bounds: list[float]
    counts: list[int]
    seconds: float


class ModelReport(Report):
    """One model in STATUS; docs/protocol.md explains every field. Times are Unix seconds."""

    model_id: str
    state: str
    pinned: bool
    size_bytes: int
    loaded_at: float | None
    last_used: float | None
    idle_until: float | None = None
    rss_bytes: int | None
    footprint_bytes: int | None
    mlx_active_bytes: int | None
    mlx_cache_bytes: int | None
    mlx_peak_bytes: int | None
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    ttft_seconds: float | None = None
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generation_tokens: int = 0
    queue_times: QueueTimes | None = None
    loads: int = 0
    load_seconds: dict[str, float] = {}
    replays: int = 0
    resumes: int = 0
    evictions: int = 0
    exits: dict[str, int] = {}
    heartbeat_age_seconds: float | None = None
    live: int = 0
    waiting: int = 0
    prefilling: int = 0
    disk_cache_bytes: int = 0
    disk_cache_files: int = 0
    disk_cache_hits: int = 0
    disk_cache_queue_bytes: int = 0
    decode_steps: int = 0
    late_steps: int = 0
    share_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_percent: float = 0.0
    in_flight: int = 0
    queued: int = 0
    restarts: int = 0


class StatusReport(Report):
    """The FINAL of STATUS."""

    models: list[ModelReport]
    spares: list[dict[str, Any]]
    workers: int
    queued: int
    uptime_seconds: float
    max_models: int
    max_memory_bytes: int
    budget_origin: str
    working_set_bytes: int | None
    reserved_bytes: int
    missing_bytes: int
    pressure: str
    machine_total_bytes: int
    machine_available_bytes: int
    started_at: float
    version: str


R = TypeVar("R", bound=Report)


def reader(kind: type[R]) -> Callable[[dict[str, Any]], R]:
    """What makes a `kind` of the body of an output. Raises ProtocolError."""

    def read(body: dict[str, Any]) -> R:
        try:
            return kind.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ProtocolError(f"{kind.__name__}.{where}: {first['msg']}") from None

    return read


def gib(size: int) -> float:
    """Bytes in the unit of the answers: GiB, to about a kilobyte."""
    return round(size / 2**30, 6)
