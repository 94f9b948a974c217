"""Renderers of text models: the template of a tokenizer, and the plain lines of a model without one. Free of mlx."""

from typing import Any, Protocol

from worker.chat.chat import Chat
from worker.chat.writer import Render

# How mlx_lm.server writes a chat for a model whose tokenizer has no template.
_ROLE_PREFIXES = {"system": "ASSISTANT's RULE: ", "user": "USER: ", "assistant": "ASSISTANT: "}


class Template(Protocol):
    """The part of mlx-lm's TokenizerWrapper that this file uses."""

    has_chat_template: bool

    def encode(self, text: str, /) -> list[int]:
        """Token ids, with the special tokens of the model around the text."""

    def apply_chat_template(self, messages: list[dict[str, Any]], /, **kwargs: Any) -> Any:
        """Token ids of a rendered chat; its text with `tokenize=False`."""


def renderer_of(tokenizer: Template) -> Render:
    """For text models."""

    def template(chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        return tokenizer.apply_chat_template(
            chat.turns, tokenize=tokenize, add_generation_prompt=asks, **chat.variables
        )

    def lines(chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        if chat.tools or chat.has_calls:
            raise ValueError("the model has no chat template")
        written = [f"{_ROLE_PREFIXES.get(turn['role'], '')}{turn['content']}\n" for turn in chat.turns]
        text = "".join([*written, _ROLE_PREFIXES["assistant"]] if asks else written).rstrip()
        return tokenizer.encode(text) if tokenize else text

    return template if tokenizer.has_chat_template else lines
