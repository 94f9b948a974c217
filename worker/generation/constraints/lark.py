"""Lark grammars, as llguidance reads them, to rules whose terminals are regular expressions. Pure.

llguidance has read the grammar before: mistakes are not looked for here.
"""

import json
import re
from dataclasses import dataclass, field

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
    """The grammar has something that no regular expression has; the text says why."""


@dataclass(slots=True, frozen=True)
class Pattern:
    """A terminal: a regular expression in Rust's syntax, with each slash escaped."""

    text: str


@dataclass(slots=True, frozen=True)
class Name:
    """Another rule or terminal."""

    text: str


@dataclass(slots=True, frozen=True)
class Repeated:
    """times: as expressions have it."""

    part: "Part"
    times: str


@dataclass(slots=True, frozen=True)
class Alternatives:
    """Alternatives, each a sequence of parts."""

    of: tuple[tuple["Part", ...], ...]


Part = Pattern | Name | Repeated | Alternatives


@dataclass(slots=True)
class LarkGrammar:
    """ignored: what may stand between terminals."""

    rules: dict[str, Alternatives] = field(default_factory=dict)
    ignored: list[Alternatives] = field(default_factory=list)


def read_lark(grammar: str) -> LarkGrammar:
    """Raises NotRegularError."""
    return _LarkReader(grammar).read()


def is_terminal(name: str) -> bool:
    """Whether this is the name of a terminal: what the grammar ignores does not stand inside."""
    return name.lstrip("_")[:1].isupper()


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

    def read(self) -> LarkGrammar:
        grammar = LarkGrammar()
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

    def _statement(self, keyword: str, grammar: LarkGrammar) -> None:
        if keyword == "%ignore":
            grammar.ignored.append(self._choice())
        elif keyword == "%import":
            self._import(grammar)
        else:
            raise NotRegularError(f"it has {keyword}")

    def _import(self, grammar: LarkGrammar) -> None:
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
            grammar.rules[names[-1] if renamed else name] = Alternatives(((Pattern(_COMMON[name]),),))

    def _choice(self) -> Alternatives:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotRegularError("it nests too deeply")
        choices = [self._sequence()]
        while self._take_bar():
            choices.append(self._sequence())
        self._depth -= 1
        return Alternatives(tuple(choices))

    def _take_bar(self) -> bool:
        """A bar, which may stand on the next line."""
        begin = self._at
        self._take("newline")
        if self._is("|"):
            self._at += 1
            return True
        self._at = begin
        return False

    def _sequence(self) -> tuple[Part, ...]:
        parts = []
        while (part := self._part()) is not None:
            parts.append(part)
        if self._is("->"):  # the name of an alternative
            self._at += 2
        return tuple(parts)

    def _part(self) -> Part | None:
        part: Part
        if (string := self._take("string")) is not None:
            part = Pattern(self._range(string) if self._is("..") else escaped(string))
        elif (pattern := self._take("pattern")) is not None:
            part = Pattern(pattern)
        elif (name := self._take("name")) is not None:
            part = Name(name)
        elif self._is("("):
            part = self._group(")")
        elif self._is("["):
            part = Repeated(self._group("]"), "?")
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

    def _group(self, end: str) -> Alternatives:
        self._at += 1
        inner = self._choice()
        if not self._is(end):
            raise NotRegularError(f"{end} is missing")
        self._at += 1
        return inner

    def _repeated(self, part: Part) -> Part:
        if self._is("*", "+", "?"):
            self._at += 1
            return Repeated(part, self._lexemes[self._at - 1][1])
        if self._is("~"):  # `~n` and `~n..m`
            self._at += 1
            least = most = self._number()
            if self._is(".."):
                self._at += 1
                most = self._number()
            return Repeated(part, f"{{{least},{most}}}")
        if self._is("{"):
            times = ""
            while not self._is("}"):
                self._at += 1
                if self._at >= len(self._lexemes):
                    raise NotRegularError("} is missing")
                times += self._lexemes[self._at][1]
            self._at += 1
            return Repeated(part, "{" + ("0" if times.startswith(",") else "") + times)
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
