"""The structure of a chat, with a word of its own in place of every text. Rendered, it shows what a template drops.

The texts themselves cannot be looked for in a prompt: templates trim, escape and re-encode them. Must stay free of mlx.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from worker.chat.chat import Chat
from worker.chat.messages import INSTRUCTING, THOUGHT_NAMES, Turn
from worker.chat.schemas import ANNOTATING, NAMING, TYPES, VALUES

# A number stands for a number.
_WORD = re.compile(r"kzq[a-z]{5}|73\d{8}")
_FIRST_NUMBER = 7_300_000_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(slots=True)
class Skeleton:
    """needed: words that must be in the prompt, and the fields that they stand for; wanted: those that templates may
    leave out on purpose, and what to say of them; before_late: the last word before the first instruction that follows
    another turn, None without one."""

    chat: Chat
    needed: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)
    before_late: str | None = None

    def missing(self, text: str) -> list[str]:
        """The fields of which the text lacks something, those of the first message first."""
        return _lacking(self.needed, text)

    def left_out(self, text: str) -> list[str]:
        """The same of what may be left out."""
        return _lacking(self.wanted, text)


def _lacking(words: dict[str, str], text: str) -> list[str]:
    there = set(_WORD.findall(text.lower()))
    return list(dict.fromkeys(where for word, where in words.items() if word not in there))


def skeleton(chat: Chat) -> Skeleton:
    """Of a chat as `chat_of` makes it. The same structure gives the same words."""
    maker = _Maker()
    # First, so that they are the same in each turn of a conversation.
    tools = None if chat.tools is None else [maker.tool(tool, f"tools[{i}]") for i, tool in enumerate(chat.tools)]
    of_tools, maker.needed = maker.needed, {}
    turns = [maker.turn(turn, f"messages[{index}]") for index, turn in enumerate(chat.turns)]
    return Skeleton(Chat(turns, tools, chat.kwargs), maker.needed | of_tools, maker.wanted, _before_late(turns))


def _before_late(turns: list[Turn]) -> str | None:
    """turns: of words."""
    before: str | None = None
    for turn in turns:
        content = turn["content"]
        word: str = content if isinstance(content, str) else next((p["text"] for p in content if "text" in p), "")
        if not _WORD.fullmatch(word):
            continue
        if turn["role"] not in INSTRUCTING:
            before = word
        elif before is not None:
            return before
    return None


class _Maker:
    """Makes words and notes what they stand for. Mutable state: the words so far, and the ids of calls."""

    def __init__(self) -> None:
        self.needed: dict[str, str] = {}
        self.wanted: dict[str, str] = {}
        self._made = 0
        self._ids: dict[str, str] = {}

    def turn(self, turn: Turn, where: str) -> Turn:
        made = {**turn, "content": self._content(turn["content"], where)}
        if turn["role"] == "tool":
            made["tool_call_id"] = self._id(turn["tool_call_id"])
        if thought := turn.get("reasoning_content"):
            word = self._text(thought, "messages[].reasoning_content", self.wanted)
            made |= dict.fromkeys(THOUGHT_NAMES, word)
        if name := turn.get("name"):
            # The name of a result is that of its call, which is looked for there.
            made["name"] = self._text(name, "messages[].name", {} if turn["role"] == "tool" else self.wanted)
        if calls := turn.get("tool_calls"):
            made["tool_calls"] = [self._call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
        return made

    def tool(self, tool: dict[str, Any], where: str) -> dict[str, Any]:
        function = tool["function"]
        names: dict[str, str] = {}
        title = str(function["parameters"].get("title", ""))
        # Frameworks make the title of the whole from the function's name.
        known = title if _letters(title).startswith(_letters(function["name"])) else ""
        return {
            **tool,
            "function": {
                **function,
                "name": self._text(function["name"], where, self.needed),
                "description": self._text(function["description"], where, self.needed),
                "parameters": self._schema(function["parameters"], where, names, known),
            },
        }

    def _content(self, content: Any, where: str) -> Any:
        if isinstance(content, str):
            return self._text(content, f"{where}.content", self.needed)
        return [
            {**part, "text": self._text(part["text"], f"{where}.parts[{index}].text", self.needed)}
            if isinstance(part.get("text"), str)
            else part
            for index, part in enumerate(content)
        ]

    def _call(self, call: dict[str, Any], where: str) -> dict[str, Any]:
        function = call["function"]
        name = self._text(function["name"], f"{where}.function.name", self.needed)
        arguments = self._value(function["arguments"], f"{where}.function.arguments")
        return {**call, "id": self._id(call["id"]), "function": {**function, "name": name, "arguments": arguments}}

    def _id(self, identity: str) -> str:
        """Not looked for: hardly any template writes it. Its form stays, which some demand."""
        number = len(self._ids)
        known = f"id{number:07d}" if is_plain_id(identity) else f"call_of_another_form_{number}"
        return self._ids.setdefault(identity, known)

    def _value(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {self._text(key, where, self.needed): self._value(inner, where) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, where) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(value, where)
        return self._text(value, where, self.needed) if isinstance(value, str) else value

    def _number(self, value: float, where: str) -> float:
        """A whole number for a whole number, and one with a fraction for any other."""
        number = _FIRST_NUMBER + self._made
        self._made += 1
        self.needed[str(number)] = where
        return number if isinstance(value, int) else number + 0.5

    def _schema(self, schema: Any, where: str, names: dict[str, str], known: str = "") -> Any:
        """known: a title that says nothing new."""
        if isinstance(schema, list):
            return [self._schema(inner, where, names) for inner in schema]
        if not isinstance(schema, dict):
            return self._value(schema, where)
        made: dict[str, Any] = {}
        for key, inner in schema.items():
            if key in NAMING and isinstance(inner, dict):
                is_told = key == "properties"
                made[key] = {
                    self._name(name, where, names, is_told=is_told): self._schema(below, where, names, name)
                    for name, below in inner.items()
                }
            elif key in ANNOTATING:
                made[key] = inner
            elif key in VALUES:
                made[key] = self._value(inner, where)
            elif key == "title" and isinstance(inner, str) and _letters(inner) == _letters(known):
                made[key] = self._text(inner, where, {})
            elif key == "type" and (inner in TYPES or isinstance(inner, list)):
                made[key] = inner
            elif key == "$ref" and isinstance(inner, str):
                made[key] = "/".join(names.get(part, part) for part in inner.split("/"))
            elif key == "required" and isinstance(inner, list):
                made[key] = [names.get(part, part) if isinstance(part, str) else part for part in inner]
            else:
                made[key] = self._schema(inner, where, names)
        return made

    def _name(self, name: str, where: str, names: dict[str, str], *, is_told: bool) -> str:
        """A word for each name of one tool."""
        if name not in names:
            names[name] = self._text(name, where, self.needed if is_told else {})
        elif is_told and _WORD.fullmatch(names[name]):
            self.needed.setdefault(names[name], where)
        return names[name]

    def _text(self, text: str, where: str, words: dict[str, str]) -> str:
        """A word, or the text itself if it has only blanks."""
        if not text.strip():
            return text
        letters, number = "", self._made
        for _ in range(5):
            number, digit = divmod(number, 26)
            letters += _LETTERS[digit]
        self._made += 1
        word = f"kzq{letters}"
        words[word] = where
        return word


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def is_plain_id(identity: str) -> bool:
    """Nine letters and digits: the form of ids that every template takes."""
    return len(identity) == 9 and identity.isascii() and identity.isalnum()
