"""Renderers of text models: the template of a tokenizer, and the plain lines of a model without one. Free of mlx."""

from typing import Any, Protocol

from worker.chat.chat import Chat
from worker.chat.encoding import encoder_of
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
    encode = encoder_of(tokenizer)

    def template(chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        encodes = tokenize and encode is not None
        written = tokenizer.apply_chat_template(
            chat.turns, tokenize=tokenize and not encodes, add_generation_prompt=asks, **chat.variables
        )
        return encode(written) if encode is not None and encodes else written

    def lines(chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        if chat.tools or chat.has_calls:
            raise ValueError("the model has no chat template")
        written = [f"{_ROLE_PREFIXES.get(turn['role'], '')}{turn['content']}\n" for turn in chat.turns]
        text = "".join([*written, _ROLE_PREFIXES["assistant"]] if asks else written).rstrip()
        return tokenizer.encode(text) if tokenize else text

    return template if tokenizer.has_chat_template else lines
