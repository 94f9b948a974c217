"""All settings of the broker, validated at start. docs/settings.md tells users about each.

Order: environment `MLX_BROKER_<NAME>`, then the table [broker] of the settings file (broker/wire/settings_file.py),
then the defaults here. The file has a table [models."org/name"] for each model.
"""

import math
import os
import re
import sys
from dataclasses import asdict, dataclass, field, fields
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any

from broker.fields import (
    MistakesError,
    choice,
    folder,
    names,
    number,
    optional,
    read,
    switch,
    table,
    tables,
    text,
    whole,
)
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

_ENGINE = re.compile(r"[\w.]+:\w+")

Seconds = Annotated[float, number(above=0)]
Folder = Annotated[Path, folder]
Switch = Annotated[bool, switch]


def _kind(value: Any) -> str:
    if text(value) not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}, not {value!r}")
    return str(value)


def _engine(value: Any) -> str:
    if not _ENGINE.fullmatch(text(value)):
        raise ValueError(f"must be `module:Class`, not {value!r}")
    return str(value)


def _can_be_sent(value: Any) -> dict[str, Any]:
    options = table(value)
    try:
        pack(Assign(model="", path="", model_type="", options=options))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"must be values that can be sent to a worker, no date or huge number: {error}") from None
    return options


def _for_linux(value: Any) -> str:
    # A variable: a type checker takes the condition itself for that of its own system.
    is_linux = sys.platform == "linux"
    if not is_linux:
        raise ValueError("must not be set: only Linux has a choice of BLAS")
    return text(value)


@dataclass(slots=True, frozen=True)
class ModelSettings:
    """The table `[models."org/name"]`. defaults: read and checked by the gateway."""

    type: Annotated[str | None, optional(_kind)] = None
    engine: Annotated[str | None, optional(_engine)] = None
    options: Annotated[dict[str, Any], _can_be_sent] = field(default_factory=dict)
    keep_alive_seconds: Annotated[float | None, optional(number())] = None
    memory_limit_gb: Annotated[float | None, optional(number(above=0))] = None
    recycle_after_requests: Annotated[int, whole(0)] = 0
    recycle_over_gb: Annotated[float, number(least=0)] = 0.0
    defaults: Annotated[dict[str, Any], table] = field(default_factory=dict)

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


@dataclass(slots=True, frozen=True)
class BrokerSettings:
    """See the top of this file; every field is documented in docs/settings.md. aliases: checked by the gateway;
    max_memory_gb 0: from the machine, see budget.py; negative keep_alive_seconds: idle models stay; cache_disk_gb 0: no
    prompt cache on disk."""

    runtime_dir: Folder = field(default_factory=default_runtime_dir)
    state_dir: Folder = field(default_factory=default_state_dir)
    models_dir: Folder = field(default_factory=lambda: _cache_home() / "mlx-broker" / "models")
    hub_dir: Folder = field(default_factory=_hub_dir)
    models: Annotated[dict[str, ModelSettings], tables(ModelSettings)] = field(default_factory=dict)
    aliases: Annotated[dict[str, Any], table] = field(default_factory=dict)
    allow_downloads: Switch = False
    preload_models: Annotated[list[str], names] = field(default_factory=list)

    max_models: Annotated[int, whole(1)] = 4
    max_memory_gb: Annotated[float, number(least=0)] = 0.0
    max_queue: Annotated[int, whole(0)] = 512
    max_requests_per_model: Annotated[int, whole(1)] = 256
    queue_timeout_seconds: Seconds = 300.0
    drain_timeout_seconds: Annotated[float, number(least=0)] = 30.0
    stop_grace_seconds: Seconds = 2.0
    keep_alive_seconds: Annotated[float, number()] = 1800.0
    heartbeat_interval_seconds: Seconds = 0.5
    heartbeat_timeout_seconds: Seconds = 10.0
    stall_timeout_seconds: Seconds = 120.0
    load_stall_timeout_seconds: Seconds = 120.0
    memory_limit_factor: Annotated[float, number(least=1)] = 2.0
    memory_sample_seconds: Seconds = 1.0
    wired_memory: Switch = False
    keep_awake: Switch = False
    prefill_in_turns: Switch = False
    cache_disk_gb: Annotated[float, number(least=0)] = 10.0
    cache_disk_reserve_gb: Annotated[float, number(least=0)] = 10.0
    cache_disk_write_mb_per_second: Annotated[float, number(above=0)] = 32.0
    warm_spares: Annotated[int, whole(0, 4)] = 1
    blas_library: Annotated[str | None, optional(_for_linux)] = None
    log_level: Annotated[str, choice("debug", "info", "warning", "error")] = "info"
    log_format: Annotated[str, choice("text", "json")] = "text"

    def __post_init__(self) -> None:
        """Progress is seen with heartbeats: a timeout of less than two of them would end healthy workers."""
        for name in ("heartbeat_timeout_seconds", "stall_timeout_seconds", "load_stall_timeout_seconds"):
            if getattr(self, name) < 2 * self.heartbeat_interval_seconds:
                raise ValueError(f"{name} must be at least twice heartbeat_interval_seconds")

    def shown(self) -> dict[str, Any]:
        """All of them for people, as JSON can have them."""
        return {name: _plain(value) for name, value in asdict(self).items()}

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
    given = given_settings("broker", [one.name for one in fields(BrokerSettings)])
    try:
        return read(BrokerSettings, given)
    except MistakesError as error:
        raise mistakes("broker", error.errors) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date | time):  # of TOML
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)  # a path
