"""The prompt of a request: messages, text or token ids -> token ids.

Every mistake that a client can make raises FailureError naming the field. Must stay free of mlx, so that an engine
without a model can use it.
"""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from broker.wire.failure import FailureError, invalid
from broker.wire.work import Generate
from worker.cache.prefix_index import common_length, key_of
from worker.chat.chat import Chat, chat_of
from worker.chat.messages import INSTRUCTING, Turn, plain_messages
from worker.chat.renderers import Template
from worker.chat.writer import ChatWriter, Form
from worker.generation.infill import infill_tokens


@dataclass(slots=True, frozen=True)
class WrittenPrompt:
    """chat: in its form, None for a prompt that is none; form: how it was written."""

    tokens: list[int]
    chat: Chat | None = None
    form: Form | None = None

    @property
    def is_generic(self) -> bool:
        """Whether calls are to be read in the generic form."""
        return self.form is not None and self.form.is_generic

    @property
    def ignored(self) -> tuple[str, ...]:
        """Fields of the request that are not in the prompt."""
        return () if self.form is None else self.form.ignored


def write_prompt(request: Generate, tokenizer: Template, writer: ChatWriter, vocabulary: int) -> WrittenPrompt:
    """The prompt, at least one token, each in [0, vocabulary). writer: of this tokenizer. Raises FailureError."""
    if request.messages is None:
        return WrittenPrompt(text_tokens(request, tokenizer, vocabulary))
    if request.prompt is not None:
        raise invalid("give either messages or prompt", param="messages")
    prompt = _written(request, request.messages, writer)
    if not prompt.tokens:
        raise invalid("messages is empty", param="messages")
    return prompt


def text_tokens(request: Generate, tokenizer: Template, vocabulary: int) -> list[int]:
    """The tokens of a prompt without messages, at least one, each in [0, vocabulary). Raises FailureError."""
    if (request.messages is None) == (request.prompt is None):
        raise invalid("give either messages or prompt", param="messages")
    if request.suffix:
        if not isinstance(request.prompt, str):
            raise invalid("suffix: the prompt must be a text, not token ids", param="suffix")
        return infill_tokens(tokenizer, request.prompt, request.suffix)
    if isinstance(request.prompt, str):
        # Check the text, not the tokens: some tokenizers add a start token to an empty text.
        tokens = tokenizer.encode(request.prompt) if request.prompt else []
    else:
        tokens = checked_ids(request.prompt or [], vocabulary, "prompt")
    if not tokens:
        raise invalid("prompt is empty", param="prompt")
    return tokens


def _written(request: Generate, messages: list[Turn], writer: ChatWriter) -> WrittenPrompt:
    chat = chat_of(request, plain_messages(messages))
    form = writer.form(chat)
    chat = form.apply(chat)
    return WrittenPrompt(writer.render(form, chat, tokenize=True), chat, form)


def checked_ids(ids: list[Any], vocabulary: int, where: str) -> list[int]:
    """The token ids in the field `where`; vocabulary: tokens, 0 if unknown. Raises FailureError for any other value."""
    for position, token in enumerate(ids):
        # bool is an int, and an id outside of the table reads foreign memory.
        if type(token) is not int or token < 0 or (vocabulary and token >= vocabulary):
            limit = f" to {vocabulary - 1}" if vocabulary else ""
            raise invalid(f"{where}[{position}] must be a token id from 0{limit}, not {token!r}", param=where)
    return ids


def prompt_characters(request: Generate) -> int:
    """A lower bound of the characters (or token ids) of the prompt, without rendering it."""
    if request.messages is None:
        return len(request.prompt or "") + len(request.suffix or "")
    characters = 0
    messages: list[Any] = request.messages  # the wire checks that it is a list, not its elements
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        characters += sum(len(text) for text in texts if isinstance(text, str))
    return characters


def checkpoints(prompt: WrittenPrompt, writer: ChatWriter) -> list[tuple[int, str]]:
    """The beginnings of the prompt that other prompts will share, as (count, kind), ascending: `system` for chats with
    the same system turns and tools, `user` for the next turn of this chat. If rendering cannot tell, `user` is for the
    same prompt again."""
    again = len(prompt.tokens) - 1  # one token must be left
    if prompt.chat is None or prompt.form is None:
        return [(again, "user")]
    counts = []
    turns = prompt.chat.turns
    instructions = list(takewhile(lambda turn: turn["role"] in INSTRUCTING, turns))
    if instructions or prompt.chat.tools:
        anything = {"role": "user", "content": ""}
        counts.append((_shared(prompt, [*instructions, anything], writer), "system"))
    counts.append((_shared(prompt, turns, writer) or again, "user"))
    return sorted((min(count, again), kind) for count, kind in counts)


def _shared(prompt: WrittenPrompt, turns: list[dict[str, Any]], writer: ChatWriter) -> int:
    """How many tokens these turns share, without the prompt for an answer; 0 if rendering cannot tell."""
    assert prompt.chat is not None
    assert prompt.form is not None
    try:
        rendered = writer.render(prompt.form, replace(prompt.chat, turns=turns), tokenize=True, asks=False)
    except FailureError:  # some templates demand a user turn at the end; the prompt itself was fine
        return 0
    return common_length(key_of(rendered), key_of(prompt.tokens))
