"""A Lark grammar to one regular expression. Pure.

A text inside a JSON string, or between tags, is then one terminal, and llguidance's own quoting of terminals applies.
A rule that contains itself at its beginning or its end repeats what else it has. One that contains itself in the middle
has no expression: it is written out some levels deep, for less than the texts of the grammar.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.generation.constraints.lark import (
    Alternatives,
    LarkGrammar,
    Name,
    NotRegularError,
    Part,
    Pattern,
    Repeated,
    is_terminal,
    read_lark,
)

# Rules that are used often are written often. The second number is for what is written out in levels.
_MAX_CHARACTERS = (100_000, 30_000)
_MAX_WORK = 2_000_000  # characters of all parts together
_MAX_DEPTH = 100
# From the outermost use of a rule to the innermost, over the rules between them.
LEVELS = (24, 18, 12, 9, 6, 4, 2, 1)


def expression_of(grammar: str, levels: int = LEVELS[0]) -> str:
    """In Rust's syntax, with each slash escaped. levels: how deep rules that contain themselves are written out. Raises
    NotRegularError."""
    writer = _PatternWriter(read_lark(grammar), levels)
    text = writer.write("start", levels)
    if text is None:
        raise NotRegularError("no text has so few levels")
    return text


@dataclass(slots=True, frozen=True)
class _Rule:
    """once: what it is without itself; again: what may follow that, or, where `leads`, precede it, any number of
    times."""

    once: Alternatives
    again: Alternatives | None = None
    leads: bool = False

    @property
    def names(self) -> set[str]:
        """Of the rules that it uses."""
        return set(_names(self.once)) | (set() if self.again is None else set(_names(self.again)))


@dataclass(slots=True, frozen=True)
class _Place:
    """Inside which rule, and how many levels may still be written."""

    rule: str
    levels: int


class _PatternWriter:
    """Mutable state: what has been written of rules, by their levels; how deep it is in them, and how much it has
    written."""

    def __init__(self, grammar: LarkGrammar, levels: int) -> None:
        self._levels = levels
        self._rules = {name: _rule(name, choice) for name, choice in grammar.rules.items()}
        self._circles = _circles({name: rule.names for name, rule in self._rules.items()})
        self._known: dict[tuple[str, int], str | None] = {}
        self._depth = self._work = 0
        self._skipped = ""
        skipped = [self._choice(one, _Place("IGNORED", levels)) for one in grammar.ignored]
        self._skipped = "".join(f"(?:{one})*" for one in skipped if one)

    def write(self, name: str, levels: int) -> str | None:
        """The expression of a rule or terminal, None if it has none with so few levels."""
        if name not in self._rules:
            raise NotRegularError(f"there is no rule {name}")
        if (name, levels) not in self._known:
            self._known[name, levels] = self._written(self._rules[name], _Place(name, levels))
        return self._known[name, levels]

    def _written(self, rule: _Rule, place: _Place) -> str | None:
        once = self._choice(rule.once, place)
        again = None if once is None or rule.again is None else self._choice(rule.again, place)
        if once is None or again is None:
            return once
        return self._checked(f"(?:{again})*(?:{once})" if rule.leads else f"(?:{once})(?:{again})*")

    def _choice(self, choice: Alternatives, place: _Place) -> str | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotRegularError("it nests too deeply")
        written = [self._sequence(one, place) for one in choice.of]
        self._depth -= 1
        possible = [one for one in written if one is not None]
        return self._checked("|".join(possible)) if possible else None

    def _sequence(self, parts: tuple[Part, ...], place: _Place) -> str | None:
        written = []
        for part in parts:
            one = self._part(part, place)
            if one is None:
                return None
            written.append(one)
        return self._checked("".join(written))

    def _part(self, part: Part, place: _Place) -> str | None:
        match part:
            case Alternatives():
                inner = self._choice(part, place)
                return None if inner is None else f"(?:{inner})"
            case Repeated(repeated, times):
                inner = self._part(repeated, place)
                if inner is None:
                    return "" if times in ("*", "?") or times.startswith("{0") else None
                return f"(?:{inner}){times}"
            case Name(name):
                return self._used(name, place)
            case Pattern(text):
                return self._terminal(text, place)

    def _used(self, name: str, place: _Place) -> str | None:
        levels = self._levels
        if name in self._circles.get(place.rule, ()):
            if place.levels == 0:
                return None
            levels = place.levels - 1
        written = self.write(name, levels)
        if written is None:
            return None
        return self._terminal(written, place) if is_terminal(name) else f"(?:{written})"

    def _terminal(self, text: str, place: _Place) -> str:
        """What the grammar ignores may follow each terminal of a rule."""
        return f"(?:{text})" + (self._skipped if text and not is_terminal(place.rule) else "")

    def _checked(self, written: str) -> str:
        self._work += len(written)
        if len(written) > _MAX_CHARACTERS[bool(self._circles)] or self._work > _MAX_WORK:
            raise NotRegularError("its expression is too large")
        return written


def _rule(name: str, choice: Alternatives) -> _Rule:
    """A rule that contains itself at the beginning, or at the end, as repetition."""
    itself = Name(name)
    before = tuple(one[1:] for one in choice.of if one[:1] == (itself,))
    after = tuple(one[:-1] for one in choice.of if one[-1:] == (itself,))
    if before:
        return _Rule(Alternatives(tuple(one for one in choice.of if one[:1] != (itself,))), Alternatives(before))
    if after:
        return _Rule(
            Alternatives(tuple(one for one in choice.of if one[-1:] != (itself,))), Alternatives(after), leads=True
        )
    return _Rule(choice)


def _names(part: Part) -> Iterable[str]:
    match part:
        case Name(name):
            yield name
        case Repeated(inner, _):
            yield from _names(inner)
        case Alternatives(of):
            for one in of:
                for inner in one:
                    yield from _names(inner)


def _circles(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each rule that uses itself, over others perhaps, the rules through which it does, itself included."""
    reached = {name: _reached(name, uses) for name in uses}
    return {
        name: {other for other in reached[name] if name in reached.get(other, ())}
        for name in uses
        if name in reached[name]
    }


def _reached(name: str, uses: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = uses.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
