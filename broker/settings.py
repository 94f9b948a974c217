"""All settings of the broker, validated at start. docs/settings.md tells users about each.

Order: environment `MLX_BROKER_<NAME>`, then the table [broker] of the settings file (broker/wire/settings_file.py),
then the defaults here. The file has a table [models."org/name"] for each model.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.models.entry import ModelOverride
from broker.policy.budget import Hardware, budget_of
from broker.policy.limits import PoolLimits, block_bytes
from broker.prompt_caches import PromptCaches
from broker.wire.kinds import KINDS
from broker.wire.model_names import end_of
from broker.wire.packing import pack
from broker.wire.paths import default_runtime_dir, default_state_dir
from broker.wire.settings_file import given_settings, mistakes
from broker.wire.to_workers import Assign

GIB = 1 << 30

# A process whose memory is wired takes longer to exit, and one that is killed may leave it wired (jundot/omlx#2184).
_WIRED_GRACE_SECONDS = 10.0

Seconds = Annotated[float, Field(gt=0)]


class ModelSettings(BaseModel):
    """The table `[models."org/name"]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    type: str | None = None
    engine: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive_seconds: float | None = None
    memory_limit_gb: float | None = Field(default=None, gt=0)
    recycle_after_requests: int = Field(default=0, ge=0)
    recycle_over_gb: float = Field(default=0.0, ge=0)
    defaults: dict[str, Any] = Field(default_factory=dict, description="read and checked by the gateway")

    @field_validator("type")
    @classmethod
    def _is_known(cls, kind: str | None) -> str | None:
        if kind is not None and kind not in KINDS:
            raise ValueError(f"must be one of {', '.join(KINDS)}")
        return kind

    @field_validator("options")
    @classmethod
    def _can_be_sent(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            pack(Assign(model="", path="", model_type="", options=options))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"must be values that can be sent to a worker, no date or huge number: {error}") from None
        return options

    def override(self) -> ModelOverride:
        limit = None if self.memory_limit_gb is None else int(self.memory_limit_gb * GIB)
        recycling = (self.recycle_after_requests, int(self.recycle_over_gb * GIB))
        return ModelOverride(self.type, self.engine, self.options, self.keep_alive_seconds, limit, *recycling)


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _hub_dir() -> Path:
    """Where huggingface_hub keeps its cache."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    return Path(os.environ.get("HF_HOME") or _cache_home() / "huggingface") / "hub"


class BrokerSettings(BaseModel):
    """See the top of this file; every field is documented in docs/settings.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    runtime_dir: Path = Field(default_factory=default_runtime_dir)
    state_dir: Path = Field(default_factory=default_state_dir)
    models_dir: Path = Field(default_factory=lambda: _cache_home() / "mlx-broker" / "models")
    hub_dir: Path = Field(default_factory=_hub_dir)
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    aliases: dict[str, Any] = Field(default_factory=dict, description="checked by the gateway")
    allow_downloads: bool = False
    preload_models: list[str] = Field(default_factory=list)

    max_models: int = Field(default=4, ge=1)
    max_memory_gb: float = Field(default=0.0, ge=0, description="0: from the machine, see budget.py")
    max_queue: int = Field(default=512, ge=0)
    max_requests_per_model: int = Field(default=256, ge=1)
    queue_timeout_seconds: Seconds = 300.0
    drain_timeout_seconds: float = Field(default=30.0, ge=0)
    stop_grace_seconds: Seconds = 2.0
    keep_alive_seconds: float = Field(default=1800.0, description="negative: idle models stay")
    heartbeat_interval_seconds: Seconds = 0.5
    heartbeat_timeout_seconds: Seconds = 10.0
    stall_timeout_seconds: Seconds = 120.0
    load_stall_timeout_seconds: Seconds = 120.0
    memory_limit_factor: float = Field(default=2.0, ge=1)
    memory_sample_seconds: Seconds = 1.0
    wired_memory: bool = False
    keep_awake: bool = False
    prefill_in_turns: bool = False
    cache_disk_gb: float = Field(default=10.0, ge=0, description="0: no prompt cache on disk")
    cache_disk_reserve_gb: float = Field(default=10.0, ge=0)
    cache_disk_write_mb_per_second: float = Field(default=32.0, gt=0)
    warm_spares: int = Field(default=1, ge=0, le=4)
    blas_library: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @field_validator("runtime_dir", "state_dir", "models_dir", "hub_dir")
    @classmethod
    def _is_text(cls, path: Path) -> Path:
        if not str(path).isprintable():  # neither a message nor a log line could name it
            raise ValueError("must be printable text")
        return path.absolute()

    @field_validator("blas_library")
    @classmethod
    def _is_for_linux(cls, library: str | None) -> str | None:
        if library is not None and sys.platform != "linux":
            raise ValueError("must not be set: only Linux has a choice of BLAS")
        return library

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _with_what_is_given(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Arguments, then the environment, then the file."""
        return given_settings("broker", cls.model_fields) | values

    @field_validator("preload_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`a,b` in the environment, a list in the file."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _beats_are_seen_in_time(self) -> Self:
        """Progress is seen with heartbeats: a timeout of less than two of them would end healthy workers."""
        for name in ("heartbeat_timeout_seconds", "stall_timeout_seconds", "load_stall_timeout_seconds"):
            if getattr(self, name) < 2 * self.heartbeat_interval_seconds:
                raise ValueError(f"{name} must be at least twice heartbeat_interval_seconds")
        return self

    @property
    def overrides(self) -> dict[str, ModelOverride]:
        """What the tables of models say, but for what only gateways read."""
        return {name: model.override() for name, model in self.models.items()}

    @property
    def prompt_caches(self) -> PromptCaches:
        """Where the prompt caches on disk are, and how large."""
        most, reserve = (int(size * GIB) for size in (self.cache_disk_gb, self.cache_disk_reserve_gb))
        return PromptCaches(self.state_dir, most, reserve, self.cache_disk_write_mb_per_second * 1e6)

    @property
    def preloaded(self) -> list[str]:
        """The models that `preload_models` names, by their own names or by aliases."""
        entries = {
            name: entry.get("model") if isinstance(entry, dict) else entry for name, entry in self.aliases.items()
        }
        aliases = {name: model for name, model in entries.items() if isinstance(model, str)}
        return [end_of(name, aliases) or name for name in self.preload_models]

    def limits(self, total_bytes: int, *, has_metal: bool) -> PoolLimits:
        """The limits for the pool, on a machine with this much memory."""
        machine = Hardware(total_bytes, int(self.max_memory_gb * GIB), has_metal, wires=self.wired_memory)
        return PoolLimits(
            max_models=self.max_models,
            machine=machine,
            block_bytes=block_bytes(budget_of(machine, None).size_bytes),
            max_queue=self.max_queue,
            max_requests_per_model=self.max_requests_per_model,
            queue_timeout=self.queue_timeout_seconds,
            drain_timeout=self.drain_timeout_seconds,
            stop_grace=max(self.stop_grace_seconds, _WIRED_GRACE_SECONDS if self.wired_memory else 0.0),
            keep_alive=self.keep_alive_seconds,
            heartbeat_timeout=self.heartbeat_timeout_seconds,
            stall_timeout=self.stall_timeout_seconds,
            load_stall_timeout=self.load_stall_timeout_seconds,
            memory_limit_factor=self.memory_limit_factor,
            warm_spares=self.warm_spares,
        )


def load_settings() -> BrokerSettings:
    """The settings of this start. Raises SettingsError with one line per mistake."""
    try:
        return BrokerSettings()
    except ValidationError as error:
        raise mistakes("broker", error.errors()) from None
