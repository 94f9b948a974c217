"""Custom tools, which take a text instead of JSON: what the model is told of them, and their calls. Pure.

To the wire such a tool is a function with the one string parameter `input`, and perhaps a Lark grammar in
`Generate.input_grammars` that this text must follow. Dialects bring custom tools with `custom_function`, and turn the
calls of these functions back with `input_of`, or piece by piece with an `InputText`.
"""

import re
from typing import Any

import orjson

from gateway.core.validation import at

INPUT = "input"

_MAX_GRAMMAR = 100_000  # characters
_SYNTAXES = ("lark", "regex")

# The beginning of arguments as far as their text, and what follows the text.
_BEGINNING = re.compile(r'\s*+\{\s*+"input"\s*+:\s*+"')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_LOW = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_PLAIN = re.compile(r'[^"\\]++')


def custom_function(name: str, description: str | None, grammar: str | None) -> dict[str, Any]:
    """The function tool in OpenAI's form that stands for a custom tool. grammar: Lark, None for free text. The model
    reads it, so that it does not have to guess what a constraint lets through."""
    text = "The text of the input, as it is."
    if grammar is not None:
        text = f"{text} It must follow this grammar in Lark syntax:\n{grammar}"
    parameters = {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": text}},
        "required": [INPUT],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description or "", "parameters": parameters},
    }


def grammar_in(wanted: object, path: str) -> str | None:
    """The Lark grammar of a custom tool's `format`, None for free text. path: where the format stands, for mistakes.

    Two forms: `{type, syntax, definition}` of OpenAI's Responses, and `{type, grammar: {syntax, definition}}` of its
    chats. Raises a ValueError that names the field.
    """
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise at(path, "must be an object")
    if wanted.get("type") == "text":
        return None
    if wanted.get("type") != "grammar":
        raise at(f"{path}.type", 'must be "text" or "grammar"')
    inner = wanted.get("grammar")
    if inner is not None:
        path += ".grammar"
        if not isinstance(inner, dict):
            raise at(path, "must be an object")
        wanted = inner
    syntax, definition = wanted.get("syntax"), wanted.get("definition")
    if syntax not in _SYNTAXES:
        raise at(f"{path}.syntax", 'must be "lark" or "regex"')
    if not isinstance(definition, str) or not definition or len(definition) > _MAX_GRAMMAR:
        raise at(f"{path}.definition", f"must be a string of 1 to {_MAX_GRAMMAR} characters")
    return definition if syntax == "lark" else regex_as_lark(definition)


def regex_as_lark(pattern: str) -> str:
    """The Lark grammar of the texts that this pattern matches as a whole."""
    # Lark ends a pattern at a slash that no backslash precedes.
    escaped = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return f"start: /{escaped}/\n" if escaped else 'start: ""\n'


def arguments_of(text: str) -> str:
    """The arguments of a call with this input, as JSON text."""
    return orjson.dumps({INPUT: text}).decode()


def input_of(arguments: str) -> str:
    """The input of a call with these arguments: their text `input`, or the arguments themselves where a model has
    written something else."""
    try:
        read = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = read.get(INPUT) if isinstance(read, dict) else None
    return text if isinstance(text, str) else arguments


class InputText:
    """The input of a call whose arguments come in pieces: JSON pieces in, pieces of the text out.

    Mutable state: all pieces so far, what of them is still to be decoded, whether the text has begun and ended, its
    pieces.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._unread = ""
        self._has_begun = self._has_ended = False
        self._given: list[str] = []

    def push(self, piece: str) -> str:
        """The text that is certain by now and has not been given yet."""
        self._pieces.append(piece)
        if self._has_ended:
            return ""
        self._unread += piece
        if not self._has_begun:
            found = _BEGINNING.match(self._unread)
            if found is None:
                return ""
            self._has_begun = True
            self._unread = self._unread[found.end() :]
        text = self._decoded()
        self._given.append(text)
        return text

    def finish(self) -> str:
        """The rest: no more pieces will come. What is not of the expected form is given as `input_of` does."""
        whole, given = input_of("".join(self._pieces)), "".join(self._given)
        return whole.removeprefix(given) if whole.startswith(given) else ""

    def _decoded(self) -> str:
        """Of what is still to be decoded all that is complete."""
        text, end, parts = self._unread, 0, []
        while end < len(text):
            if (plain := _PLAIN.match(text, end)) is not None:
                parts.append(plain[0])
                end = plain.end()
            elif text[end] == '"':
                self._has_ended = True
                break
            else:
                escape = _ESCAPE.match(text, end)
                if escape is None:
                    break  # cut short, or no JSON, which `finish` gives
                if escape[1] is None:
                    parts.append(_ESCAPES[escape[2]])
                    end = escape.end()
                    continue
                unit = int(escape[1], 16)
                if 0xD800 <= unit < 0xE000:  # the first half of a character, or no character
                    second = _LOW.match(text, escape.end())
                    if unit >= 0xDC00 or second is None:
                        break
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (int(second[1], 16) - 0xDC00)
                    escape = second
                parts.append(chr(unit))
                end = escape.end()
        self._unread = text[end:]
        return "".join(parts)
