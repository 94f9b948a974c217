"""The prompt of a request: messages, text or token ids -> token ids.

Every mistake that a client can make raises FailureError naming the field. Must stay free of mlx, so that an engine
without a model can use it.
"""

from itertools import takewhile
from typing import Any, Protocol

from broker.wire.failure import invalid, one_line
from broker.wire.work import Generate
from worker.cache.prefix_index import common_length, key_of
from worker.chat.messages import INSTRUCTING, plain_messages

# How mlx_lm.server writes a chat for a model whose tokenizer has no template.
_ROLE_PREFIXES = {"system": "ASSISTANT's RULE: ", "user": "USER: ", "assistant": "ASSISTANT: "}


class Template(Protocol):
    """The part of mlx-lm's TokenizerWrapper that this file uses."""

    has_chat_template: bool

    def encode(self, text: str, /) -> list[int]:
        """Token ids, with the special tokens of the model around the text."""

    def apply_chat_template(self, messages: list[dict[str, Any]], /, **kwargs: Any) -> Any:
        """Token ids of a rendered chat; its text with `tokenize=False`."""


def prompt_tokens(request: Generate, tokenizer: Template, vocabulary: int) -> list[int]:
    """The token ids of the prompt, at least one, each in [0, vocabulary). Raises FailureError."""
    if (request.messages is None) == (request.prompt is None):
        raise invalid("give either messages or prompt", param="messages")
    if request.messages is not None:
        tokens = _chat_tokens(request, request.messages, tokenizer)
        param = "messages"
    elif isinstance(request.prompt, str):
        # Check the text, not the tokens: some tokenizers add a start token to an empty text.
        tokens = tokenizer.encode(request.prompt) if request.prompt else []
        param = "prompt"
    else:
        tokens = checked_ids(request.prompt or [], vocabulary, "prompt")
        param = "prompt"
    if not tokens:
        raise invalid(f"{param} is empty", param=param)
    return tokens


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
        return len(request.prompt or "")
    characters = 0
    messages: list[Any] = request.messages  # the wire checks that it is a list, not its elements
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        characters += sum(len(text) for text in texts if isinstance(text, str))
    return characters


def checkpoints(request: Generate, tokenizer: Template, tokens: list[int]) -> list[tuple[int, str]]:
    """The prefixes of `tokens` that other prompts will share, as (count, kind), ascending: `system` for chats with the
    same system turns and tools, `user` for the next turn of this chat. If rendering cannot tell, `user` is for the same
    prompt again."""
    again = len(tokens) - 1  # one token must be left
    if request.messages is None or not tokenizer.has_chat_template:
        return [(again, "user")]
    counts = []
    messages = plain_messages(request.messages)
    instructions = list(takewhile(lambda message: message["role"] in INSTRUCTING, messages))
    if instructions or request.tools:
        anything = {"role": "user", "content": ""}
        counts.append((_shared(request, [*instructions, anything], tokenizer, tokens), "system"))
    counts.append((_shared(request, messages, tokenizer, tokens) or again, "user"))
    return sorted((min(count, again), kind) for count, kind in counts)


def _shared(request: Generate, messages: list[dict[str, Any]], tokenizer: Template, tokens: list[int]) -> int:
    """How many of `tokens` these messages share, without the prompt for an answer; 0 if rendering cannot tell."""
    kwargs = {**request.chat_template_kwargs, **({"tools": request.tools} if request.tools else {})}
    try:
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=False, **kwargs)
    except Exception:  # noqa: BLE001 # some templates demand a user turn at the end; the prompt itself was fine
        return 0
    return common_length(key_of(rendered), key_of(tokens))


def render(request: Generate, messages: list[dict[str, Any]], tokenizer: Template, *, tokenize: bool) -> Any:
    """The chat through the model's template: token ids, or its text. Raises FailureError."""
    kwargs = request.chat_template_kwargs
    _refuse_reserved(kwargs)
    if request.tools:
        kwargs = {**kwargs, "tools": request.tools}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=tokenize, add_generation_prompt=True, **kwargs)
    except Exception as error:  # a template is the model author's program and may raise anything
        message = f"the model's chat template refuses these messages: {one_line(error)}"
        raise invalid(message, param="messages") from error


def refuse_tools(request: Generate) -> None:
    """Raises FailureError for a request with tools to a model without a template."""
    if request.tools:
        raise invalid("this model has no chat template, which tools need", param="tools")


def _chat_tokens(request: Generate, messages: list[dict[str, Any]], tokenizer: Template) -> list[int]:
    plain = plain_messages(messages)
    if not tokenizer.has_chat_template:
        refuse_tools(request)
        lines = [f"{_ROLE_PREFIXES.get(m['role'], '')}{m['content']}\n" for m in plain]
        return tokenizer.encode("".join([*lines, _ROLE_PREFIXES["assistant"]]).rstrip())
    tokens: list[int] = render(request, plain, tokenizer, tokenize=True)
    return tokens


def _refuse_reserved(kwargs: dict[str, Any]) -> None:
    # `chat_template` would let a client bring a template of its own, `tokenize` would change the result's type.
    for name in kwargs:
        if name in _RESERVED_KWARGS or not name.isidentifier():
            raise invalid(f"chat_template_kwargs must not set {name!r}", param="chat_template_kwargs")


_RESERVED_KWARGS = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)
