"""What becomes of a conversation with one template: what is missing in the prompt, or how the request is refused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.wire.failure import Failure
from gateway.core.sampling import Defaults
from gateway.openai.requests import chat_work, parse_chat
from tests.templates.shapes import WORD, Shape
from worker.chat.renderers import renderer_of
from worker.chat.writer import ChatWriter
from worker.generation.prompt import write_prompt


@dataclass(slots=True, frozen=True)
class Outcome:
    """vanished: path in the body -> the words that the prompt lacks; refused: the client's mistake; raised: anything
    else that came."""

    text: str = ""
    vanished: dict[str, list[str]] = field(default_factory=dict)
    refused: Failure | None = None
    raised: str | None = None

    def fault(self, wanted: str | None) -> str | None:
        """What is wrong with it, None if nothing is. wanted: the field that must be refused, None if none may be."""
        if self.raised is not None:
            return f"raised {self.raised}"
        if self.refused is not None:
            param = self.refused.param
            return None if param and param == wanted else f"refused, naming {param}: {self.refused.message}"
        if wanted:
            return f"not refused: {wanted}"
        if self.vanished:
            return "vanished: " + ", ".join(f"{path} ({' '.join(words)})" for path, words in self.vanished.items())
        return None


def outcome(shape: Shape, tokenizer: Any) -> Outcome:
    """The way of a body through gateway and worker."""
    try:
        (work,) = chat_work(parse_chat(orjson.dumps(shape.body)), [], Defaults())
        prompt = write_prompt(work, tokenizer, ChatWriter([renderer_of(tokenizer)]), 0)
        rendered = tokenizer.decode(prompt.tokens, skip_special_tokens=False)
    except Exception as error:  # noqa: BLE001 # which ones come is the question
        failure = getattr(error, "failure", None)
        if isinstance(failure, Failure):
            return Outcome(refused=failure)
        return Outcome(raised=f"{type(error).__name__}: {error}"[:200])
    there = set(WORD.findall(rendered))
    vanished: dict[str, list[str]] = {}
    for path, word in words_of(shape.body):
        if word not in there and _ignored_as(path) not in prompt.ignored:
            vanished.setdefault(path, []).append(word)
    return Outcome(rendered, vanished)


def _ignored_as(path: str) -> str | None:
    """How an answer names a field that its prompt does without."""
    turn, _, field = path.partition(".")
    if field.startswith("reasoning") or field.endswith("thinking"):
        return "messages[].reasoning_content"
    return f"messages[].{field}" if turn.startswith("messages") and field == "name" else None


def words_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each word of a body with the path to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            for word in WORD.findall(name):
                yield path, word
            # Of a schema its own path says enough.
            yield from words_of(inner, path if path.endswith("parameters") else f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from words_of(inner, path if path.endswith("parameters") else f"{path}[{position}]")
    elif isinstance(value, str):
        if path.endswith("arguments") and WORD.search(value):
            yield from words_of(json.loads(value), path)
        else:
            yield from ((path, word) for word in WORD.findall(value))
