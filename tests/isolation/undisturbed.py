"""What models say when nothing happens to them, token by token, so that whatever a client of a chaos is told can be
compared with it: all of an answer, or its beginning.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from tests.service import chat_body

# The two best logits of every step differ by more: the order of a sum, which depends on the company, changes no token.
MARGIN = 1e-3
# Prompts of each model, and how many are tried to find those whose answers are clear.
_PROMPTS, _CANDIDATES = 4, 40


@dataclass(frozen=True)
class Undisturbed:
    """Model -> prompt -> the bytes of each token of the best answer to it."""

    answers: dict[str, dict[str, list[bytes]]]

    def prompts(self, model: str) -> list[str]:
        return [*self.answers[model]]

    def check_whole(self, body: dict[str, Any], text: str, tokens: int) -> None:
        """AssertionError unless this is the answer. body: that was asked; tokens: of the answer, by its usage."""
        known = self._of(body)
        assert tokens == len(known), f"{tokens} tokens, not {len(known)}: {body}"
        self.check_beginning(body, text)
        assert len(text) == len(_text(known)), f"the end is missing: {body}\n{text!r}"

    def check_beginning(self, body: dict[str, Any], text: str) -> None:
        """AssertionError unless the answer begins with this."""
        expected = _text(self._of(body))
        assert expected.startswith(text), f"another answer than without deaths: {body}\n{text!r}\n{expected!r}"

    def _of(self, body: dict[str, Any]) -> list[bytes]:
        return self.answers[body["model"]][body["messages"][0]["content"]][: body["max_tokens"]]


def _text(tokens: list[bytes]) -> str:
    return b"".join(tokens).decode(errors="replace")


async def learn(http: httpx.AsyncClient, models: tuple[str, ...], tokens: int) -> Undisturbed:
    """Asks each model, one after the other, for answers of so many tokens."""
    answers = dict[str, dict[str, list[bytes]]]()
    for model in models:
        clear = dict[str, list[bytes]]()
        untried = ["Hello " * count for count in range(1, 1 + _CANDIDATES)]
        while len(clear) < _PROMPTS:
            assert untried, f"only {len(clear)} answers of {model} are clear"
            tried, untried = untried[:_PROMPTS], untried[_PROMPTS:]
            told = await asyncio.gather(*(_ask(http, model, prompt, tokens) for prompt in tried))
            clear |= {prompt: known for prompt, known in zip(tried, told, strict=True) if known is not None}
        answers[model] = clear
    return Undisturbed(answers)


async def _ask(http: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> list[bytes] | None:
    """None if rounding might change it, or if its text is not that of all its bytes together: of many that are no
    character, a few at a time become text."""
    body = chat_body(model, prompt, max_tokens=tokens, logprobs=True, top_logprobs=2)
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    entries = choice["logprobs"]["content"]
    known = [bytes(entry["bytes"]) for entry in entries]
    best = [entry["top_logprobs"] for entry in entries]
    is_clear = all(first["logprob"] - second["logprob"] > MARGIN for first, second in best)
    return known if is_clear and choice["message"]["content"] == _text(known) else None
