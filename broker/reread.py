"""The settings file is read again: what has changed, what of it is applied at once, and what waits for a restart.

Most settings are built into what the broker starts with. Those of the policies are looked at whenever something is
decided, and those of a model whenever it is loaded, so these two kinds can change while the broker runs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from broker.models.catalog import Catalog
from broker.models.entry import ModelOverride
from broker.policy.events import Event, LimitsChanged
from broker.policy.limits import PoolLimits
from broker.settings import BrokerSettings
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.settings_file import SettingsError

logger = logging.getLogger(__name__)

# What the policies look at whenever they decide.
LIMITS = frozenset(
    {
        "max_models",
        "max_memory_gb",
        "max_queue",
        "max_requests_per_model",
        "queue_timeout_seconds",
        "drain_timeout_seconds",
        "stop_grace_seconds",
        "keep_alive_seconds",
        "memory_limit_factor",
        "warm_spares",
    }
)
# Workers beat as they were told when they started, so these are bound to a setting that waits for a restart.
TIMEOUTS = frozenset({"heartbeat_timeout_seconds", "stall_timeout_seconds", "load_stall_timeout_seconds"})
_INTERVAL = "heartbeat_interval_seconds"
# Of models, which have a rule of their own, and what is read at the start alone or by gateways alone.
_OTHERS = frozenset({"models", "aliases"})


@dataclass(slots=True, frozen=True)
class SettingsChanges:
    """settings: those in force from now on. applied, needs_restart: names of settings; at_next_load: models whose own
    settings have changed."""

    settings: BrokerSettings
    applied: list[str]
    at_next_load: list[str]
    needs_restart: list[str]


def changes(old: BrokerSettings, new: BrokerSettings) -> SettingsChanges:
    """old: the settings in force."""
    changed = {one.name for one in fields(old) if getattr(old, one.name) != getattr(new, one.name)}
    may_change = LIMITS if _INTERVAL in changed else LIMITS | TIMEOUTS
    applied = sorted(changed & may_change)
    before, after, nothing = old.overrides, new.overrides, ModelOverride()
    at_next_load = sorted(n for n in before.keys() | after.keys() if before.get(n, nothing) != after.get(n, nothing))
    update = {name: getattr(new, name) for name in (*applied, "models", "aliases")}
    return SettingsChanges(replace(old, **update), applied, at_next_load, sorted(changed - may_change - _OTHERS))


class Rereading:
    """load: reads the file, raises SettingsError. limits: those of these settings on this machine. put: takes the event
    that tells the policies."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        load: Callable[[], BrokerSettings],
        limits: Callable[[BrokerSettings], PoolLimits],
        catalog: Catalog,
        put: Callable[[Event], None],
    ) -> None:
        self.settings = settings
        self._load = load
        self._limits = limits
        self._block_bytes = limits(settings).block_bytes
        self._catalog = catalog
        self._put = put

    def reread(self, apply: bool = True) -> dict[str, Any]:
        """The FINAL of RELOAD_SETTINGS. Raises FailureError with a line for each mistake; then nothing has changed."""
        try:
            found = changes(self.settings, self._load())
        except SettingsError as error:
            raise FailureError(Failure(Code.INVALID_REQUEST, str(error))) from None
        if apply:
            self._apply(found)
        return {
            "applied": found.applied,
            "at_next_load": found.at_next_load,
            "needs_restart": found.needs_restart,
        }

    def _apply(self, found: SettingsChanges) -> None:
        self.settings = found.settings
        self._catalog.use(found.settings.overrides)
        if found.applied:
            # Shares have been handed out in blocks of this size.
            self._put(LimitsChanged(replace(self._limits(found.settings), block_bytes=self._block_bytes)))
        logger.info(
            "settings read again; applied: %s; at the next load of: %s; after a restart: %s",
            *(", ".join(names) or "none" for names in (found.applied, found.at_next_load, found.needs_restart)),
        )
