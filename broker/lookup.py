"""What a model id stands for now: a model that runs, one in the files of this machine, or a problem.

Turns what people ask for into the events that the policies take. Starts nothing and sends no answers.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from broker.models.catalog import Catalog
from broker.models.entry import CatalogEntry, CatalogError
from broker.policy.actions import Readmit
from broker.policy.admission import wrong_task
from broker.policy.events import (
    Event,
    KeepRequested,
    LoadRequested,
    ModelMissed,
    ModelPinned,
    PinRequested,
    PullRequested,
    ReloadRequested,
    RemoveRequested,
    RequestArrived,
    RequestCancelled,
    WantsModel,
)
from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest
from broker.wire.model_names import folded

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class _Found:
    """The model, or the problem, or a model with a problem. fetchable: a download may solve it."""

    spec: ModelSpec | None
    problem: Failure | None = None
    fetchable: bool = False


class Lookup:
    """running: the model as its process has it, None if no process serves it. downloads: whether a request for a model
    that this machine lacks fetches it."""

    def __init__(
        self, catalog: Catalog, running: Callable[[str], ModelSpec | None], *, downloads: bool = False
    ) -> None:
        self._catalog = catalog
        self._running = running
        self._downloads = downloads

    def id_of(self, name: str) -> str:
        """The only id of the model that this name leads to; the name itself if there is none."""
        return name if self._running(name) is not None else self._catalog.id_of(name)

    def resolve(self, name: str) -> dict[str, Any]:
        """The FINAL of RESOLVE. Where no model has this very name, the only one whose name differs in case alone."""
        model_id = self.id_of(name)
        found = self._find(model_id)
        if found.problem is None or found.problem.code is not Code.MODEL_NOT_FOUND:
            return {"model_id": model_id, "fetchable": False}
        others = self._catalog.names() - {model_id}
        alike = [other for other in others if folded(other) == folded(name)]
        return {
            "model_id": alike[0] if len(alike) == 1 else None,
            "fetchable": found.fetchable and self._downloads and not alike,
        }

    def request(self, request_id: bytes, body: InferenceRequest) -> Event:
        model_id = self.id_of(body.model)
        found = self._find(model_id, body.task)
        what = (body.payload, found.spec, found.problem, body.task, body.origin, body.keep_alive, body.trace)
        return _event(RequestArrived(request_id, model_id, *what, body.resume_limit), found)

    def keep(self, request_id: bytes, name: str, seconds: float | None) -> Event:
        model_id = self.id_of(name)
        found = self._find(model_id)
        event = KeepRequested(request_id, model_id, seconds, found.spec, found.problem)
        return event if seconds == 0 else _event(event, found)

    def load(self, request_id: bytes, name: str) -> Event:
        model_id = self.id_of(name)
        found = self._find(model_id)
        return _event(LoadRequested(request_id, model_id, found.spec, found.problem), found)

    def reload(self, request_id: bytes, name: str, *, allow_gap: bool) -> Event:
        """The model as its present files and settings describe it, not as it was loaded."""
        model_id = self.id_of(name)
        found = self._find(model_id, anew=True)
        return ReloadRequested(request_id, model_id, allow_gap, found.spec, found.problem)

    def pull(self, request_id: bytes, name: str, *, stream: bool) -> Event:
        model_id = self.id_of(name)
        found = self._find(model_id)
        return _event(PullRequested(request_id, model_id, stream, found.spec, found.problem), found)

    def pin(self, request_id: bytes, name: str) -> Event:
        """A download is for loads: what this machine lacks is not pinned."""
        model_id = self.id_of(name)
        found = self._find(model_id)
        return PinRequested(request_id, model_id, found.spec, found.problem)

    def remove(self, request_id: bytes, name: str) -> Event:
        model_id = self.id_of(name)
        return RemoveRequested(request_id, model_id, tuple(self._catalog.users_of(model_id)))

    def pins(self, names: Iterable[str]) -> list[Event]:
        """Models that are pinned from the start."""
        events = []
        for model_id in sorted({self.id_of(name) for name in names}):
            found = self._find(model_id)
            if found.problem is not None:
                logger.error("cannot preload %s: %s", model_id, found.problem.message)
            events.append(_event(ModelPinned(model_id, found.spec, found.problem), found))
        return events

    def again(self, readmit: Readmit) -> list[Event]:
        """The event that was held back until its download ended, with what is found now."""
        event = readmit.waiting
        found = _Found(None, readmit.problem)
        if readmit.problem is None:
            found = self._find(event.model_id, event.task if isinstance(event, RequestArrived) else None)
        events: list[Event] = [replace(event, spec=found.spec, problem=found.problem)]
        if readmit.cancelled and isinstance(event, LoadRequested):
            events.append(RequestCancelled(event.request_id))
        return events

    def newest(self, spec: ModelSpec) -> ModelSpec:
        """The model as its files are now: the policies keep what it was when it was asked for."""
        with contextlib.suppress(CatalogError):
            return self._catalog.find(spec.model_id)
        return spec

    def entries(self) -> list[CatalogEntry]:
        """Every usable model of this machine."""
        return self._catalog.entries()

    def broken(self) -> dict[str, Any]:
        """What looks like a model of this machine and is none, and where that was looked for."""
        broken = self._catalog.broken()
        return {
            "broken": [{"model_id": b.model_id, "path": b.path, "reason": b.reason} for b in broken],
            "folders": [{"path": str(f), "exists": f.is_dir()} for f in self._catalog.folders],
        }

    def _find(self, model_id: str, task: str | None = None, *, anew: bool = False) -> _Found:
        running = None if anew else self._running(model_id)  # a model that runs needs no files
        try:
            spec = running or self._catalog.find(model_id)
        except CatalogError as error:
            return _Found(None, error.failure, error.fetchable)
        return _Found(spec, None if task is None else wrong_task(spec, task))


def _event(event: WantsModel, found: _Found) -> Event:
    return ModelMissed(event) if found.fetchable else event
