"""Harmony, the form of gpt-oss's answers: messages, each with a header that says on which channel and to whom.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>`. Calls have a
recipient in the header: `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`.
"""

import re
from typing import Any

from mlx_lm.generate import TextStateMachine

from worker.generation.calls.readers import headed

_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")
_ROLE = "assistant"
_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")
# A channel may follow a message that nothing ends.
_CHANNEL = "<|channel|>"
_MACHINE = TextStateMachine(
    {"message": [(_CHANNEL, "channel"), *((end, "header") for end in _ENDS)], "channel": [], "header": []}
)
_RECIPIENT = re.compile(r"to=[^\s<]")
_NAME = re.compile(r"<\|channel\|>\s*(\w*)")
# As far as it has been written.
_WHOLE = re.compile(
    rf"\s*+(?:{_ROLE})?+(?:\s*+to=[^\s<]*+)?+\s*+(?:<\|channel\|>\s*+(?:(?!to=)\w)*+(?:\s*+to=[^\s<]*+)?+"
    r"\s*+(?:<\|constrain\|>)?+\s*+\w*+\s*+)?+"
)
# A longer one is a text. It is read again with each of its characters.
_MAX_HEADER = 1000
_UNFINISHED = re.compile(r"(?:<[|\w]*|\bto?)\Z")

# The way from a prompt to an answer that follows a grammar: into the reasoning, out of it, and to the answer. And the
# way from the reasoning to a call.
FINAL_PATH = ("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>")
CALL_OPENING = "<|start|>assistant<|channel|>commentary to"
# How a header names the recipient of a call, behind the role or the channel. A prompt ends with the role.
ROLE_START = "<|start|>assistant"
CALL_MARKS = (f"{ROLE_START} to", "<|channel|>commentary to", "<|channel|>analysis to")

read_message = headed(r"(?>.*?to=)(?:functions\.)?+(?P<name>[^\s<]++)(?>.*?<\|message\|>)")


def is_harmony(tokenizer: Any) -> bool:
    """Whether the model's vocabulary has the marks of this form."""
    vocabulary = tokenizer.get_vocab()
    return all(mark in vocabulary for mark in _MARKS)


class HarmonySplit:
    """Splits one answer. Text on a channel that nobody knows is text, and so is what is no header after all."""

    def __init__(self, said: str = "normal") -> None:
        """said: the kind of what the model says on other channels than its reasoning's."""
        self._said = said
        self._header = ""
        self._kind: str | None = None  # of the message, None in a header
        self._state: Any = None  # in the message
        self._before: frozenset[str] = frozenset()  # a copy of this split goes on alone

    def push(self, text: str) -> list[tuple[str, str]]:
        """The parts that are certain by now."""
        parts: list[tuple[str, str]] = []
        while text:
            if self._kind is None:
                text = self._read_header(text, parts)
                continue
            self._state, segments = TextStateMachine.split(self._state, text)
            text = ""
            for name, segment in segments:
                if name == "message":
                    parts.append((self._kind or self._said, segment))
                    continue
                # Beyond the mark that ends the message.
                self._kind, self._header = None, _CHANNEL if name == "channel" else ""
                parts.append(("header", ""))
                text = segment
        return parts

    def finish(self) -> list[tuple[str, str]]:
        """The rest. A header that is cut short is not shown."""
        if self._kind is None:
            return []
        _, held, _ = TextStateMachine.flush(self._state)
        return [(self._kind, held)]

    @property
    def is_reasoning(self) -> bool:
        """Whether the text that is certain by now ends inside reasoning."""
        return self._kind == "reasoning"

    def _read_header(self, text: str, parts: list[tuple[str, str]]) -> str:
        """Takes a header, character by character, or as much of it as is there; returns the rest of the text."""
        for position, char in enumerate(text, 1):
            self._header += char
            if self._header.endswith(_MESSAGE):
                self._header = self._header.removesuffix(_MESSAGE)
                parts += self._begin()
            elif self._header.endswith(_ENDS):
                self._header = ""
                continue
            elif not _may_be_header(self._header):
                self._kind = self._said
                parts.append((self._kind, self._header))
            else:
                continue
            self._state = _MACHINE.make_state("message")
            return text[position:]
        return ""

    def _begin(self) -> list[tuple[str, str]]:
        header, self._header = self._header, ""
        if _RECIPIENT.search(header):
            self._kind = "tool"
            return [("tool", header + _MESSAGE)]
        channel = _NAME.search(header)
        self._kind = "reasoning" if channel is not None and channel[1] == "analysis" else self._said
        if self._kind in self._before:
            return [(self._kind, "\n\n")]
        self._before |= {self._kind}
        return []


def _may_be_header(text: str) -> bool:
    if len(text) > _MAX_HEADER:
        return False
    return bool(_WHOLE.fullmatch(_UNFINISHED.sub("", text))) or any(
        whole.startswith(text.lstrip()) for whole in (_ROLE, "to=")
    )
