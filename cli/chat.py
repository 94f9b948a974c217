"""A conversation with one model: what was said, and the next answer piece by piece.

A turn counts once it has an answer. One that failed leaves the conversation as it was, so the same words can be sent
again; one that was stopped keeps what had been said.
"""

from collections.abc import Generator, Sequence
from typing import Any

from cli.errors import CliError
from cli.gateway import Gateway, Json

TEXT, REASONING = "text", "reasoning"
_CHAT = "/v1/chat/completions"


class ChatTurns:
    """system: instructions before its first turn. parameters: of every request, None for the gateway's default."""

    def __init__(self, gateway: Gateway, model: str, system: str | None, parameters: Json) -> None:
        self._gateway = gateway
        self._fixed = {"model": model, **{name: value for name, value in parameters.items() if value is not None}}
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages: list[Json] = list(self._start)

    def forget(self) -> None:
        """Back to its first turn."""
        self.messages = list(self._start)

    def body(self, prompt: str, images: Sequence[str] = ()) -> Json:
        """The request for the next answer. images: data URLs."""
        content: Any = prompt
        if images:
            pictures = [{"type": "image_url", "image_url": {"url": image}} for image in images]
            content = [*pictures, {"type": "text", "text": prompt}]
        return {**self._fixed, "messages": [*self.messages, {"role": "user", "content": content}]}

    def whole(self, prompt: str, images: Sequence[str] = ()) -> Json:
        """The answer as the gateway's JSON. Raises CliError."""
        return self._gateway.post(_CHAT, body=self.body(prompt, images))

    def ask(self, prompt: str, images: Sequence[str] = ()) -> Generator[tuple[str, str], None, None]:
        """(TEXT or REASONING, piece) as they come. Raises CliError. Whoever stops to read stops the answer."""
        body = self.body(prompt, images)
        said: list[str] = []
        failed = False
        try:
            for event in self._gateway.events("POST", _CHAT, body={**body, "stream": True}):
                for choice in event.get("choices") or ():
                    delta = choice.get("delta") or {}
                    if delta.get("reasoning_content"):
                        yield REASONING, str(delta["reasoning_content"])
                    if delta.get("content"):
                        said.append(str(delta["content"]))
                        yield TEXT, said[-1]
        except CliError:
            failed = True
            raise
        finally:
            if said and not failed:
                self.messages = [*body["messages"], {"role": "assistant", "content": "".join(said)}]
