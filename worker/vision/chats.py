"""How chats are written for a vision model: mlx-vlm says where its family wants images, its template the rest.

Sounds stay where the client has put them: mlx-vlm puts all of a chat into its last turn. So it takes them for images
here, and what it has written for them becomes sounds again.
"""

from functools import partial
from typing import Any

from mlx_vlm.prompt_utils import MODEL_CONFIG, MessageFormat, apply_chat_template, get_chat_template

from worker.chat.chat import Chat
from worker.chat.messages import INSTRUCTING, Turn
from worker.chat.writer import ChatWriter

# Of these, processors find the places for images, or for all of them at once; templates do not.
_PLACED_BY_PROCESSOR = (MessageFormat.PROMPT_ONLY, MessageFormat.TEXT_ONLY, MessageFormat.SINGLE_IMAGE_TOKEN)

# Types of parts that stand for a file.
FILES = ("image", "audio")
_IMAGE = {"type": "image"}
# What mlx-vlm's forms call one.
_IMAGES = ("image", "image_url")


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
    files = sum(len(files_in(turn)) for turn in chat.turns)
    written = apply_chat_template(
        processor, config, list(map(_with_images_only, chat.turns)), return_messages=True, num_images=files
    )
    if not tokenizer.has_chat_template:
        if chat.tools or chat.has_calls:
            raise ValueError("the model has no chat template")
        return str(get_chat_template(processor, written, add_generation_prompt=asks))
    turns = [
        turn if turn["role"] in kept and not files_in(turn) else _merged(turn, form)
        for turn, form in zip(chat.turns, written, strict=True)
    ]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, **chat.variables))


def files_in(turn: Turn) -> list[str]:
    """Which files it has, in their order: `image` or `audio`."""
    content = turn["content"]
    return [] if isinstance(content, str) else [part["type"] for part in content if part.get("type") in FILES]


def _with_images_only(turn: Turn) -> Turn:
    if "audio" not in files_in(turn):
        return turn
    return {**turn, "content": [_IMAGE if part.get("type") == "audio" else part for part in turn["content"]]}


def _with_sounds(turn: Turn, content: Any) -> Any:
    """content: of the turn in the form of its family, with images in place of sounds."""
    kinds = files_in(turn)
    if "audio" not in kinds:
        return content
    if not isinstance(content, list) or sum(part.get("type") in _IMAGES for part in content) != len(kinds):
        raise ValueError("mlx-vlm does not know where this model takes audio")
    rest = iter(kinds)
    return [{"type": "audio"} if part.get("type") in _IMAGES and next(rest) == "audio" else part for part in content]


def _merged(turn: Turn, form: Any) -> Any:
    """mlx-vlm's turns have only a role and a content."""
    if not isinstance(form, dict):
        return form
    merged = {**turn, **form}
    return {**merged, "content": _with_sounds(turn, merged["content"])}
