"""Which model a client means by a name: an alias of the settings, or a model, which the broker knows.

Asks the broker about a name once, not with every request: that a model has this name holds for a minute, that none has
it for seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.wire.failure import Failure, FailureError, invalid
from broker.wire.model_names import is_model_name
from gateway.core import ask
from gateway.core.administration import ResolveReport
from gateway.core.names import LONGEST, Alias, Aliases, spellings
from gateway.core.sampling import Defaults, merged
from gateway.link.link import Link
from gateway.settings import Settings

_KNOWN_SECONDS = 60.0
_UNKNOWN_SECONDS = 5.0
_MAX_REMEMBERED = 1000  # names come from clients


@dataclass(slots=True, frozen=True)
class Target:
    """model: the one to ask for. name: how answers call it. defaults: for requests that leave fields out. is_known:
    whether this machine or its settings have it."""

    model: str
    name: str
    defaults: Defaults
    is_known: bool = True


class Directory:
    """One for each gateway. settings: those in force. now: seconds, for what has been learnt."""

    def __init__(self, settings: Settings, link: Link, now: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._now = now
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Their aliases and defaults count from now on."""
        self.settings = settings
        self.aliases = Aliases(settings.aliases)
        self._learnt: dict[str, tuple[float, Target]] = {}  # name -> until when, its meaning

    async def find(self, name: str) -> Target:
        """An alias comes first, then a model, then aliases that fit in another case or as patterns. A name that means
        nothing is passed on as it is: the broker may download the model, or says why there is none. Raises
        FailureError."""
        now, learnt = self._now(), self._learnt  # another one as soon as the settings are others
        known = learnt.get(name)
        if known is not None and now < known[0]:
            return known[1]
        target, seconds = await self._look_up(name)
        if _can_be_a_model(name):
            if len(learnt) >= _MAX_REMEMBERED:
                learnt.clear()
            learnt[name] = (now + seconds, target)
        return target

    async def _look_up(self, name: str) -> tuple[Target, float]:
        """What it means, and the seconds for which that holds."""
        seconds = _KNOWN_SECONDS
        alias = self.aliases.exactly(name)
        if alias is None:
            model_id = await self._model_id(name)
            if model_id is not None:
                return Target(model_id, model_id, self.settings.defaults_of(model_id)), seconds
            alias, seconds = self.aliases.loosely(name), _UNKNOWN_SECONDS
        if alias is None:
            return Target(name, name, self.settings.defaults_of(name), is_known=False), seconds
        return Target(alias.model, name, merged(alias.defaults, self.settings.defaults_of(alias.model))), seconds

    def to_fetch(self, name: str) -> str:
        """The model that a download by this name brings: patterns take no name from the hub."""
        alias = self.aliases.exactly(name)
        return name if alias is None else alias.model

    def to_remove(self, name: str) -> str:
        """The model whose files go by this name. Raises FailureError for an alias: it is in the settings alone."""
        alias = self.aliases.exactly(name)
        if alias is not None:
            raise invalid(f"{name} is an alias, which the settings file has; the model is {alias.model}", "model")
        return name

    async def mistakes(self) -> list[str]:
        """Aliases that do not fit to the models of this machine, one line each. Raises FailureError."""
        aliases = self.aliases.all
        names = await self._resolve([alias.name for alias in aliases])
        models = await self._resolve([alias.model for alias in aliases])
        lines = map(_mistake, aliases, names, models)
        return [line for line in lines if line is not None]

    async def _model_id(self, name: str) -> str | None:
        if not _can_be_a_model(name):
            return None
        reports = await self._resolve(spellings(name))
        return next((report.model_id for report in reports if report.model_id is not None), None)

    async def _resolve(self, names: Sequence[str]) -> list[ResolveReport]:
        if not names:
            return []
        call = await self._link.call(*map(ask.resolve, names))
        reports: dict[int, ResolveReport] = {}
        try:
            while len(reports) < call.size:
                for index, report in await call.take():
                    if isinstance(report, Failure):
                        raise FailureError(report)
                    reports[index] = report
        finally:
            call.close()
        return [reports[index] for index in range(call.size)]


def _can_be_a_model(name: str) -> bool:
    return is_model_name(name) and len(name) <= LONGEST


def _mistake(alias: Alias, name: ResolveReport, model: ResolveReport) -> str | None:
    if name.model_id is not None:
        return f"aliases.{alias.name}: this machine has a model of that name, {name.model_id}"
    if model.model_id is None and not model.fetchable:
        return f"aliases.{alias.name}: this machine has no model {alias.model}"
    if model.model_id not in (None, alias.model):
        return f"aliases.{alias.name}: the name of {alias.model} is {model.model_id} on this machine"
    return None
