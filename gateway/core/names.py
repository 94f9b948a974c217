"""Names that the settings give to models, and which of them a client's name means. Pure.

Aliases are names, patterns stand for many names, profiles are aliases with defaults of their own. Which models there
are, the broker knows (gateway/directory.py asks it).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.wire.model_names import end_of, folded, is_model_name
from gateway.core.administration import ListedModel
from gateway.core.sampling import Defaults, merged

# What Ollama's clients write behind a name that has no tag of its own.
_NO_TAG = ":latest"
# Names of files are shorter, so no model has a longer name.
LONGEST = 512


class AliasSettings(BaseModel):
    """An entry of the table `[aliases]`: the name of a model, or that and a profile's defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    defaults: Defaults = Field(default_factory=Defaults)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


@dataclass(slots=True, frozen=True)
class Alias:
    """A name for `model`, which is no alias itself. defaults: come before those of the model."""

    name: str
    model: str
    defaults: Defaults


@dataclass(slots=True, frozen=True)
class Listed:
    """A model, or an alias of one, as lists show it."""

    name: str
    model: ListedModel

    @property
    def is_alias(self) -> bool:
        return self.name != self.model.model_id


class Aliases:
    """The table `[aliases]`. It must be free of `mistakes`."""

    def __init__(self, table: Mapping[str, AliasSettings]) -> None:
        self.all = [_followed(name, table) for name in table]
        self.named = {alias.name: alias for alias in self.all if not is_pattern(alias.name)}
        patterns = [alias for alias in self.all if is_pattern(alias.name)]
        # The most specific first; of equal ones the first of the table.
        self._patterns = [
            (_regex(alias.name), alias) for alias in sorted(patterns, key=lambda alias: _wildness(alias.name))
        ]
        names = list(reversed(self.named.items()))  # of equal ones the first stays
        self._bare = {spellings(name)[-1]: alias for name, alias in names}
        self._folded = {folded(name): alias for name, alias in reversed(self._bare.items())}

    def exactly(self, name: str) -> Alias | None:
        """The alias that has this name."""
        return self.named.get(name) or self._bare.get(spellings(name)[-1])

    def loosely(self, name: str) -> Alias | None:
        """The alias that means this name, where no alias or model has it: in another case, or as a pattern."""
        if len(name) > LONGEST:
            return None
        if (alias := self._folded.get(folded(spellings(name)[-1]))) is not None:
            return alias
        fitting = (alias for one in spellings(name) for regex, alias in self._patterns if regex.fullmatch(one))
        return next(fitting, None)

    def listed(self, models: Iterable[ListedModel]) -> list[Listed]:
        """The models and, where their model is among these, the aliases; patterns are not listed. An alias hides a
        model of the same name, which no request can reach."""
        found = {model.model_id: model for model in models}
        aliases = [Listed(name, found[alias.model]) for name, alias in self.named.items() if alias.model in found]
        return [*(Listed(name, model) for name, model in found.items() if name not in self.named), *aliases]


def spellings(name: str) -> Sequence[str]:
    """The name, and without a tag that means nothing."""
    return (name, name.removesuffix(_NO_TAG)) if name.endswith(_NO_TAG) else (name,)


def is_pattern(name: str) -> bool:
    """Whether it stands for many names."""
    return any(letter in name for letter in "*?[")


def mistakes(table: Mapping[str, AliasSettings]) -> list[str]:
    """What is wrong with the table `[aliases]` whatever models there are, one line each."""
    targets = {name: alias.model for name, alias in table.items()}
    lines = []
    for name, target in targets.items():
        if not is_model_name(name) or len(name) > LONGEST or not name.isprintable():
            lines.append(f"{name!r:.80} is not a name for a model: must be `name` or `org/name`")
        elif is_pattern(target):
            lines.append(f"{name}: {target} is a pattern: must be a model or an alias")
        elif not is_model_name(target):
            lines.append(f"{name}: {target!r:.80} is not a model name: one is `name` or `org/name`")
        elif end_of(name, targets) is None:
            lines.append(f"{name}: leads in a circle")
        elif not _is_readable(name):
            lines.append(f"{name}: is not a pattern: what stands in brackets is no set of letters")
    return [f"aliases.{line}" for line in lines]


def _followed(name: str, table: Mapping[str, AliasSettings]) -> Alias:
    """With the defaults of all aliases on the way to the model, the first ones first."""
    alias = Alias(name, table[name].model, table[name].defaults)
    while alias.model in table:
        next_ = table[alias.model]
        alias = replace(alias, model=next_.model, defaults=merged(alias.defaults, next_.defaults))
    return alias


# A set of characters, any characters, one character, or a character that means itself. None of the first three takes a
# slash, as in a shell.
_PART = re.compile(r"\[(!?)([^]/]+)\]|(\*)|(\?)|(.)", re.DOTALL)


def _regex(pattern: str) -> re.Pattern[str]:
    fixed = [""]  # what stands between the stars
    for negated, members, star, one, letter in _PART.findall(pattern):
        if star:
            fixed.append("")
        elif members:
            inside = re.sub(r"[\\^\[&~|]", r"\\\g<0>", members)
            fixed[-1] += f"[^/{inside}]" if negated else f"[{inside}]"
        else:
            fixed[-1] += "[^/]" if one else re.escape(letter)
    if len(fixed) == 1:
        return re.compile(fixed[0], re.IGNORECASE)
    # The first place where a piece fits is never worse than a later one, so none is tried again: a name comes from a
    # client and must not take long.
    first, *inner, last = fixed
    middle = "".join(f"(?>[^/]*?{piece})" for piece in inner)
    return re.compile(f"{first}{middle}[^/]*{last}", re.IGNORECASE)


def _is_readable(pattern: str) -> bool:
    try:
        _regex(pattern)
    except re.error:
        return False
    return True


def _wildness(pattern: str) -> tuple[int, int]:
    """Smaller for more letters that mean themselves, then for fewer stars."""
    letters = sum(1 for part in _PART.findall(pattern) if part[4])
    return -letters, pattern.count("*")
