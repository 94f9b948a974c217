"""A Lark grammar, as llguidance reads it, to one regular expression for the same texts, where there is one.

A text inside a JSON string, or between tags, is then one terminal, and llguidance's own quoting of terminals applies.
Rules that contain themselves have no such expression, except at their beginning or their end alone, which repeats
them. llguidance has read the grammar before: mistakes are not looked for here. Pure.
"""

import json
import re
from dataclasses import dataclass, field

# Of an expression: rules that are used often are written often.
_MAX_CHARACTERS = 100_000
_MAX_DEPTH = 100

_LEXEME = re.compile(
    r"""
    (?P<skip> [ \t]+ | (?:\#|//)[^\n]* )
  | (?P<newline> (?:\r?\n)+[ \t]* )
  | (?P<string> "(?:[^"\\]|\\.)*" ) (?P<case> i? )
  | / (?P<pattern> (?:\\.|[^/\\])+ ) / (?P<flags> [imslux]* )
  | (?P<keyword> %[a-z]+ )
  | (?P<name> [!?]* _?[A-Za-z][A-Za-z0-9_-]* )
  | (?P<number> [0-9]+ )
  | (?P<mark> -> | \.\. | :: | [|()\[\]{},.:~&=+*?<@] )
    """,
    re.VERBOSE,
)

_KINDS = ("skip", "newline", "string", "pattern", "keyword", "name", "number", "mark")
# Escapes of two characters are passed over: what follows a backslash that is one is no escape.
_HEX = re.compile(r"\\x([0-9a-fA-F]{2})|\\.", re.DOTALL)

_META = frozenset(r"\.+*?()|[]{}^$#&-~/")

# What `%import common` has.
_FLOAT = r"(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?|[0-9]+[eE][+\-]?[0-9]+"
_COMMON = {
    "DIGIT": r"[0-9]",
    "HEXDIGIT": r"[a-fA-F0-9]",
    "INT": r"[0-9]+",
    "SIGNED_INT": r"[+\-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "_EXP": r"[eE][+\-]?[0-9]+",
    "FLOAT": _FLOAT,
    "SIGNED_FLOAT": rf"[+\-]?(?:{_FLOAT})",
    "NUMBER": rf"[0-9]+|{_FLOAT}",
    "SIGNED_NUMBER": rf"[+\-]?(?:[0-9]+|{_FLOAT})",
    "ESCAPED_STRING": r'"(?:[^"\\]|\\.)*"',
    "LCASE_LETTER": r"[a-z]",
    "UCASE_LETTER": r"[A-Z]",
    "LETTER": r"[A-Za-z]",
    "WORD": r"[A-Za-z]+",
    "CNAME": r"[_A-Za-z][_A-Za-z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"\/\/[^\n]*",
    "C_COMMENT": r"\/\*[^*]*\*+(?:[^\/*][^*]*\*+)*\/",
    "SQL_COMMENT": r"--[^\n]*",
}


class NotRegularError(Exception):
    """The grammar has no regular expression, or none that is found here; the text says why."""


@dataclass(slots=True, frozen=True)
class _Pattern:
    text: str


@dataclass(slots=True, frozen=True)
class _Name:
    text: str


@dataclass(slots=True, frozen=True)
class _Repeated:
    part: "_Part"
    times: str


@dataclass(slots=True, frozen=True)
class _Choice:
    """Alternatives, each a sequence of parts."""

    of: tuple[tuple["_Part", ...], ...]


_Part = _Pattern | _Name | _Repeated | _Choice


@dataclass(slots=True)
class _Grammar:
    rules: dict[str, _Choice] = field(default_factory=dict)
    ignored: list[_Choice] = field(default_factory=list)


def regex_of(grammar: str) -> str:
    """An expression in Rust's syntax, with each slash escaped, for all texts of the grammar. Raises NotRegularError."""
    return _PatternWriter(_LarkReader(grammar).read()).write("start")


def escaped(text: str) -> str:
    """The expression of this text alone."""
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char in _META:
        return f"\\{char}"
    return char if char >= " " and char != "\x7f" else f"\\x{ord(char):02x}"


class _LarkReader:
    """Mutable state: where it is in the lexemes, and how deep in parentheses."""

    def __init__(self, grammar: str) -> None:
        self._lexemes = _lexemes_of(grammar)
        self._at = 0
        self._depth = 0

    def read(self) -> _Grammar:
        grammar = _Grammar()
        while self._at < len(self._lexemes):
            if self._take("newline") is not None:
                continue
            if (keyword := self._take("keyword")) is not None:
                self._statement(keyword, grammar)
                continue
            name = self._take("name")
            if name is None:
                raise NotRegularError("a rule must have a name")
            if not self._is(":"):
                raise NotRegularError(f"the rule {name} has attributes")
            self._at += 1
            grammar.rules[name.lstrip("!?")] = self._choice()
        return grammar

    def _statement(self, keyword: str, grammar: _Grammar) -> None:
        if keyword == "%ignore":
            grammar.ignored.append(self._choice())
        elif keyword == "%import":
            self._import(grammar)
        else:
            raise NotRegularError(f"it has {keyword}")

    def _import(self, grammar: _Grammar) -> None:
        """`common.NAME`, `common.NAME -> OTHER`, `common (NAME, ...)`."""
        words = []
        while self._at < len(self._lexemes) and self._lexemes[self._at][0] != "newline":
            words.append(self._lexemes[self._at][1])
            self._at += 1
        names = [word for word in words if word not in ("common", ".", "->", "(", ")", ",")]
        renamed = "->" in words
        for name in names[:1] if renamed else names:
            if name not in _COMMON:
                raise NotRegularError(f"{name} is not in common")
            grammar.rules[names[-1] if renamed else name] = _Choice(((_Pattern(_COMMON[name]),),))

    def _choice(self) -> _Choice:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotRegularError("it nests too deeply")
        choices = [self._sequence()]
        while self._take_bar():
            choices.append(self._sequence())
        self._depth -= 1
        return _Choice(tuple(choices))

    def _take_bar(self) -> bool:
        """A bar, which may stand on the next line."""
        begin = self._at
        self._take("newline")
        if self._is("|"):
            self._at += 1
            return True
        self._at = begin
        return False

    def _sequence(self) -> tuple[_Part, ...]:
        parts = []
        while (part := self._part()) is not None:
            parts.append(part)
        if self._is("->"):  # the name of an alternative
            self._at += 2
        return tuple(parts)

    def _part(self) -> _Part | None:
        part: _Part
        if (string := self._take("string")) is not None:
            part = _Pattern(self._range(string) if self._is("..") else escaped(string))
        elif (pattern := self._take("pattern")) is not None:
            part = _Pattern(pattern)
        elif (name := self._take("name")) is not None:
            part = _Name(name)
        elif self._is("("):
            part = self._group(")")
        elif self._is("["):
            part = _Repeated(self._group("]"), "?")
        elif self._at == len(self._lexemes) or self._is("|", ")", "]", "->") or self._lexemes[self._at][0] == "newline":
            return None
        else:
            raise NotRegularError(f"it has {self._lexemes[self._at][1]}")
        return self._repeated(part)

    def _range(self, first: str) -> str:
        self._at += 1
        last = self._take("string") or ""
        if len(first) != 1 or len(last) != 1:
            raise NotRegularError("a range must be of two characters")
        return f"[{escaped(first)}-{escaped(last)}]"

    def _group(self, end: str) -> _Choice:
        self._at += 1
        inner = self._choice()
        if not self._is(end):
            raise NotRegularError(f"{end} is missing")
        self._at += 1
        return inner

    def _repeated(self, part: _Part) -> _Part:
        if self._is("*", "+", "?"):
            self._at += 1
            return _Repeated(part, self._lexemes[self._at - 1][1])
        if self._is("~"):  # `~n` and `~n..m`
            self._at += 1
            least = most = self._number()
            if self._is(".."):
                self._at += 1
                most = self._number()
            return _Repeated(part, f"{{{least},{most}}}")
        if self._is("{"):
            times = ""
            while not self._is("}"):
                self._at += 1
                if self._at >= len(self._lexemes):
                    raise NotRegularError("} is missing")
                times += self._lexemes[self._at][1]
            self._at += 1
            return _Repeated(part, "{" + ("0" if times.startswith(",") else "") + times)
        return part

    def _number(self) -> str:
        number = self._take("number")
        if number is None:
            raise NotRegularError("a number is missing")
        return number

    def _take(self, kind: str) -> str | None:
        if self._at < len(self._lexemes) and self._lexemes[self._at][0] == kind:
            self._at += 1
            return self._lexemes[self._at - 1][1]
        return None

    def _is(self, *marks: str) -> bool:
        return self._at < len(self._lexemes) and self._lexemes[self._at] in [("mark", mark) for mark in marks]


def _lexemes_of(grammar: str) -> list[tuple[str, str]]:
    """(kind, text) of each, without blanks. A string is its text, a pattern has its flags inside."""
    lexemes: list[tuple[str, str]] = []
    at = 0
    while at < len(grammar):
        found = _LEXEME.match(grammar, at)
        if found is None:
            raise NotRegularError(f"it has {grammar[at]!r}")
        at = found.end()
        kind = next(kind for kind in _KINDS if found[kind] is not None)
        text = found[kind]
        if kind == "string":
            text = _unquoted(text)
            if found["case"]:
                kind, text = "pattern", f"(?i:{escaped(text)})"
        elif kind == "pattern" and "x" in found["flags"]:
            raise NotRegularError("it has a pattern with blanks that mean nothing")
        elif kind == "pattern" and found["flags"]:
            text = f"(?{found['flags']}:{text})"
        if kind != "skip":
            lexemes.append((kind, text))
    return lexemes


def _unquoted(string: str) -> str:
    try:
        text: str = json.loads(_HEX.sub(lambda found: f"\\u00{found[1]}" if found[1] else found[0], string))
        text.encode()
    except ValueError:
        raise NotRegularError("a string has an escape that JSON does not have") from None
    return text


class _PatternWriter:
    """Mutable state: the expressions of rules that have been written, and the rules inside which it is."""

    def __init__(self, grammar: _Grammar) -> None:
        self._rules = grammar.rules
        self._known: dict[str, str] = {}
        self._inside: list[str] = []
        self._depth = 0
        self._skipped = ""
        self._skipped = "".join(f"(?:{self._choice(one, in_rule=False)})*" for one in grammar.ignored)

    def write(self, name: str) -> str:
        """The expression of a rule or terminal."""
        if name in self._known:
            return self._known[name]
        if name not in self._rules:
            raise NotRegularError(f"there is no rule {name}")
        if name in self._inside:
            raise NotRegularError(f"the rule {name} contains itself")
        self._inside.append(name)
        in_rule = not name.lstrip("_")[:1].isupper()
        self._known[name] = self._repetition(name, self._rules[name].of, in_rule=in_rule)
        self._inside.pop()
        return self._known[name]

    def _repetition(self, name: str, choices: tuple[tuple[_Part, ...], ...], *, in_rule: bool) -> str:
        """A rule that contains itself only at the beginning, or only at the end, repeats what else it has there."""
        itself = _Name(name)
        before = tuple(choice[1:] for choice in choices if choice[:1] == (itself,))
        after = tuple(choice[:-1] for choice in choices if choice[-1:] == (itself,))
        if not before and not after:
            return self._choice(_Choice(choices), in_rule=in_rule)
        if before and after:
            raise NotRegularError(f"the rule {name} contains itself")
        rest = tuple(choice for choice in choices if itself not in (choice[:1] + choice[-1:]))
        once = self._choice(_Choice(rest), in_rule=in_rule)
        again = self._choice(_Choice(before or after), in_rule=in_rule)
        return self._checked(f"(?:{once})(?:{again})*" if before else f"(?:{again})*(?:{once})")

    def _choice(self, choice: _Choice, *, in_rule: bool) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotRegularError("it nests too deeply")
        written = ["".join(self._part(part, in_rule=in_rule) for part in one) for one in choice.of]
        self._depth -= 1
        return self._checked("|".join(written))

    def _part(self, part: _Part, *, in_rule: bool) -> str:
        """in_rule: what the grammar ignores may follow each terminal."""
        match part:
            case _Choice():
                return f"(?:{self._choice(part, in_rule=in_rule)})"
            case _Repeated(inner, times):
                return self._checked(f"(?:{self._part(inner, in_rule=in_rule)}){times}")
            case _Name(name):
                written, is_terminal = self.write(name), name.lstrip("_")[:1].isupper()
            case _:
                written, is_terminal = part.text, True
        return f"(?:{written})" + (self._skipped if in_rule and is_terminal and written else "")

    def _checked(self, written: str) -> str:
        if len(written) > _MAX_CHARACTERS:
            raise NotRegularError("its expression is too large")
        return written
