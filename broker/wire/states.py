"""The states of a model that people see in status and events."""

from enum import StrEnum


class State(StrEnum):
    """One for each model at any time; docs/pool.md says how it changes."""

    UNLOADED = "unloaded"
    DOWNLOADING = "downloading"
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    COOLDOWN = "cooldown"
    FAILED = "failed"


# A process holds the model, all of it.
LOADED = frozenset({State.READY, State.DRAINING, State.STOPPING})
