"""How chats are written for a vision model: mlx-vlm says where its family wants images, its template the rest."""

from functools import partial
from typing import Any

from mlx_vlm.prompt_utils import MODEL_CONFIG, MessageFormat, apply_chat_template, get_chat_template

from worker.chat.chat import Chat
from worker.chat.messages import INSTRUCTING, Turn
from worker.chat.writer import ChatWriter

# Of these, processors find the places for images, or for all of them at once; templates do not.
_PLACED_BY_PROCESSOR = (MessageFormat.PROMPT_ONLY, MessageFormat.TEXT_ONLY, MessageFormat.SINGLE_IMAGE_TOKEN)


def chat_writer(processor: Any, config: Any, tokenizer: Any, tool_form: str | None) -> ChatWriter:
    """tokenizer: mlx-lm's wrapper, with the model's template."""
    renderers = [
        partial(_render, processor, config, tokenizer, kept)
        for kept in (frozenset({"system", "developer", "user", "assistant"}), frozenset(INSTRUCTING), frozenset[str]())
    ]
    placed = MODEL_CONFIG.get(config.model_type.lower())
    writes_images = placed is not None and placed not in _PLACED_BY_PROCESSOR
    return ChatWriter(renderers, tool_form, writes_images=writes_images)


def _render(
    processor: Any, config: Any, tokenizer: Any, kept: frozenset[str], chat: Chat, *, tokenize: bool, asks: bool
) -> str:
    """kept: the roles whose text alone stays a text: mlx-vlm makes a list of parts of it in many families, which some
    templates write as Python would."""
    assert not tokenize
    images = sum(map(_images, chat.turns))
    written = apply_chat_template(processor, config, chat.turns, return_messages=True, num_images=images)
    if not tokenizer.has_chat_template:
        if chat.tools or chat.has_calls:
            raise ValueError("the model has no chat template")
        return str(get_chat_template(processor, written, add_generation_prompt=asks))
    turns = [
        turn if turn["role"] in kept and not _images(turn) else _merged(turn, form)
        for turn, form in zip(chat.turns, written, strict=True)
    ]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, **chat.variables))


def _images(turn: Turn) -> int:
    content = turn["content"]
    return 0 if isinstance(content, str) else sum(part.get("type") == "image" for part in content)


def _merged(turn: Turn, form: Any) -> Any:
    """mlx-vlm's turns have only a role and a content."""
    return {**turn, **form} if isinstance(form, dict) else form
