"""Where in a prompt others may begin as well; a character is a token."""

from typing import Any

import pytest

from broker.wire.work import Generate
from worker.chat.renderers import renderer_of
from worker.chat.writer import ChatWriter
from worker.generation.prompt import checkpoints, write_prompt

SYSTEM = {"role": "system", "content": "rules"}
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "tool"}}
ANSWER = {"role": "assistant", "content": "yes"}


class Characters:
    """refuses: whether it wants a question last, as some templates do, and is asked for a history."""

    def __init__(self, *, has_chat_template: bool = True, asks: str = "[assistant]", refuses: bool = False) -> None:
        self.has_chat_template = has_chat_template
        self._asks = asks
        self._refuses = refuses

    def encode(self, text: str, /) -> list[int]:
        return [ord(character) for character in text]

    def apply_chat_template(self, messages: list[dict[str, Any]], /, **kwargs: Any) -> Any:
        if self._refuses and not kwargs["add_generation_prompt"]:
            raise ValueError("no question")
        text = "".join(f"[{turn['role']}]{turn['content']}{turn.get('tool_calls') or ''}" for turn in messages)
        asks = self._asks if kwargs["add_generation_prompt"] else ""
        tools = [f"<{tool['function']['name']}{tool['function']['description']}>" for tool in kwargs.get("tools", [])]
        written = "".join([*tools, text, asks])
        return self.encode(written) if kwargs["tokenize"] else written


def found(request: Generate, tokenizer: Characters) -> list[tuple[str, str]]:
    """The beginnings of the prompt up to each checkpoint, and their kinds."""
    writer = ChatWriter([renderer_of(tokenizer)])
    prompt = write_prompt(request, tokenizer, writer, 0)
    text = "".join(map(chr, prompt.tokens))
    return [(text[:count], kind) for count, kind in checkpoints(prompt, writer)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "text"}, [("tex", "user")]),
        ({"messages": [USER]}, [("[user]hi", "user")]),
        ({"messages": [SYSTEM, USER]}, [("[system]rules[user]", "system"), ("[system]rules[user]hi", "user")]),
        (
            {"messages": [{**SYSTEM, "role": "developer"}, SYSTEM, USER, ANSWER, USER]},
            [
                ("[developer]rules[system]rules[user]", "system"),
                ("[developer]rules[system]rules[user]hi[assistant]yes[user]hi", "user"),
            ],
        ),
        ({"messages": [USER, SYSTEM]}, [("[user]hi[system]rules", "user")]),
        ({"messages": [USER], "tools": [TOOL]}, [("<tool>[user]", "system"), ("<tool>[user]hi", "user")]),
        ({"messages": [SYSTEM]}, [("[system]rules[", "system"), ("[system]rules", "user")]),
    ],
)
def test_checkpoints(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(Generate(**fields), Characters()) == sorted(expected, key=lambda pair: len(pair[0]))


def test_if_rendering_cannot_tell_the_same_prompt_is_kept() -> None:
    request = Generate(messages=[SYSTEM, USER])
    assert found(request, Characters(refuses=True))[-1] == ("[system]rules[user]hi[assistant", "user")
    lines = "ASSISTANT's RULE: rules\nUSER: hi\nASSISTANT:"
    without = found(request, Characters(has_chat_template=False))
    assert without == [("ASSISTANT's RULE: rules\nUSER:", "system"), (lines.removesuffix("\nASSISTANT:"), "user")]
    # A template that asks for no answer: something must be left to read.
    assert found(request, Characters(asks=""))[-1] == ("[system]rules[user]h", "user")
