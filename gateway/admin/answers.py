"""The JSON of administration. Names of the contract to the letter; fields beside those are this project's."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class AdminAnswer(BaseModel):
    """No other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=(), defer_build=True)


class HealthAnswer(AdminAnswer):
    """Whether the broker answers."""

    status: Literal["healthy", "unhealthy"]
    detail: str | None = None


class LoadAnswer(AdminAnswer):
    """A model has been loaded and pinned."""

    status: Literal["loaded"]
    model_id: str
    model_type: str
    size_gb: float
    preloaded: bool


class PullAnswer(AdminAnswer):
    """A model has been downloaded, or had been before. size_gb: of its weight files."""

    status: Literal["pulled"]
    model_id: str
    size_gb: float


class ProgressEvent(AdminAnswer):
    """How far a download is. reason: why nothing arrives yet; fraction: None, and bytes 0, while they are not known."""

    model_id: str
    reason: str | None
    fraction: float | None
    done_bytes: int
    total_bytes: int


class CancelAnswer(AdminAnswer):
    """A download has been ended."""

    status: Literal["cancelled"]
    model_id: str


class RemoveAnswer(AdminAnswer):
    """The files of a model have been deleted."""

    status: Literal["removed"]
    model_id: str


class ForgetAnswer(AdminAnswer):
    """Cached prompts have been removed: of a model, of all models if it is null."""

    status: Literal["forgotten"]
    model_id: str | None


class UnloadAnswer(AdminAnswer):
    """The process of a model has ended."""

    status: Literal["unloaded"]
    model_id: str


class KillAnswer(AdminAnswer):
    """The process of a model has been killed."""

    status: Literal["killed"]
    model_id: str
    pid: int


class ReloadAnswer(AdminAnswer):
    """Another process serves a model now."""

    status: Literal["reloaded"]
    model_id: str
    model_type: str
    size_gb: float


class RereadAnswer(AdminAnswer):
    """The settings file has been read again. applied, needs_restart: names of settings of the broker that have changed;
    gateway_...: the same of this gateway; at_next_load: models whose own settings have changed."""

    status: Literal["reloaded"]
    applied: list[str]
    at_next_load: list[str]
    needs_restart: list[str]
    gateway_applied: list[str]
    gateway_needs_restart: list[str]


class PinAnswer(AdminAnswer):
    """A model is pinned, and will be loaded if it is not."""

    status: Literal["pinned"]
    model_id: str


class UnpinAnswer(AdminAnswer):
    """A model may be evicted again."""

    status: Literal["unpinned"]
    model_id: str


class HeldModelAnswer(AdminAnswer):
    """A model of this machine. size_gb: of its weight files; context_length: tokens, 0 if unknown; created: Unix
    seconds; architecture: `model_type` of config.json; parameters: how many numbers its weights hold."""

    model_id: str
    model_type: str
    size_gb: float
    quantization: str | None
    context_length: int
    created: float
    capabilities: list[str]
    architecture: str | None
    parameters: int | None
    state: str
    pinned: bool


class BrokenAnswer(AdminAnswer):
    """What looks like a model and cannot be used."""

    model_id: str
    path: str
    reason: str


class FolderAnswer(AdminAnswer):
    """A folder in which models are looked for."""

    path: str
    exists: bool


class CatalogAnswer(AdminAnswer):
    """The models of this machine."""

    models: list[HeldModelAnswer]
    broken: list[BrokenAnswer]
    folders: list[FolderAnswer]


class ProcessAnswer(AdminAnswer):
    """A process of this service. started_at: Unix seconds."""

    pid: int
    started_at: float


class VersionsAnswer(AdminAnswer):
    """What runs here. metal: None while no process has said it; libraries: name -> version."""

    version: str
    python: str
    system: str
    machine: str
    metal: bool | None
    libraries: dict[str, str]
    gateway: ProcessAnswer
    broker: ProcessAnswer


class SettingsAnswer(AdminAnswer):
    """The settings in force, as docs/settings.md names them; a secret is `set` or None."""

    gateway: dict[str, Any]
    broker: dict[str, Any]


class MemoryAnswer(AdminAnswer):
    """Sums over all models, in GiB."""

    active_gb: float
    cache_gb: float
    peak_gb: float
    rss_gb: float
    footprint_gb: float


class BudgetAnswer(AdminAnswer):
    """Where `max_memory_gb` comes from, and how much of it is taken, in GiB. metal_gb: what Metal may use on this
    machine, None if that is not known; missing_gb: wired, and by no model; pressure: of the whole system."""

    origin: str
    metal_gb: float | None
    taken_gb: float
    missing_gb: float
    pressure: Literal["normal", "warning", "critical"]


class MachineAnswer(AdminAnswer):
    """The memory of the machine, in GiB. available_gb: what processes can get without swapping."""

    total_gb: float
    available_gb: float


class ModelAnswer(BaseModel):
    """One model; the broker's other fields are beside these. docs/protocol.md explains them all."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model_id: str
    model_type: str | None
    state: str
    size_gb: float
    preloaded: bool
    loaded_at: float | None
    last_used: float | None
    idle_until: float | None
    tokens_per_second: float
    prompt_tokens_per_second: float
    ttft_seconds: float | None
    prompt_tokens: int
    cached_prompt_tokens: int
    generation_tokens: int
    loads: int
    load_seconds: dict[str, float]
    replays: int
    resumes: int
    evictions: int
    exits: dict[str, int]
    heartbeat_age_seconds: float | None
    live: int
    waiting: int
    prefilling: int
    disk_cache_bytes: int
    disk_cache_files: int
    disk_cache_hits: int
    disk_cache_queue_bytes: int
    decode_steps: int
    late_steps: int


class StatusAnswer(AdminAnswer):
    """What runs now. loaded_models: those of `models` that a process holds. Times are Unix seconds."""

    loaded_models: list[ModelAnswer]
    total_models: int
    memory: MemoryAnswer
    max_memory_gb: float
    budget: BudgetAnswer
    max_models: int
    models: list[ModelAnswer]
    spares: list[dict[str, Any]]
    workers: int
    queued: int
    uptime_seconds: float
    machine: MachineAnswer
    started_at: float
    version: str


class ChangeEvent(BaseModel):
    """A change of a model's state. stage, fraction: of a load or a download, how far it is; at: Unix seconds."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model_id: str
    state: str
    reason: str | None = None
    stage: str | None = None
    fraction: float | None = None
    at: float | None = None


class LogLine(AdminAnswer):
    """A line that a process of a model has printed, or what the broker has done to it. at: Unix seconds. pid: 0 if it
    is not known."""

    at: float
    pid: int
    text: str
