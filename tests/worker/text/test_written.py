"""Prompts that are kept for a while after they have been written: how many, and what else."""

import pytest

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.packing import pack
from broker.wire.work import Generate
from worker.ahead import LONG
from worker.generation.prompt import WrittenPrompt
from worker.text.written import WrittenPrompts


class Counted:
    """Writes prompts, and knows how many."""

    def __init__(self) -> None:
        self.written = 0
        self.prompts = WrittenPrompts(self._write)

    def _write(self, request: Generate) -> WrittenPrompt:
        self.written += 1
        if request.prompt == "x" * LONG:
            raise FailureError(Failure(Code.INVALID_REQUEST, "too long"))
        return WrittenPrompt([1])

    def ask(self, text: str) -> WrittenPrompt:
        request = Generate(prompt=text)
        return self.prompts.prompt(request, pack(request))


def test_the_last_ones_are_kept_up_to_some_megabytes() -> None:
    counted = Counted()
    texts = [letter * (3 << 20) for letter in "abc"]
    for text in [*texts, texts[2], texts[1]]:
        counted.ask(text)
    assert counted.written == 3
    counted.ask(texts[0])
    assert counted.written == 4
    counted.ask("d" * (9 << 20))  # one is kept, however large
    counted.ask("d" * (9 << 20))
    assert counted.written == 5


def test_none_is_kept_that_is_to_be_forgotten() -> None:
    counted = Counted()
    counted.ask("a" * LONG)
    counted.prompts.clear()
    counted.ask("a" * LONG)
    assert counted.written == 2


def test_what_is_wrong_with_one_is_kept_without_the_frames_that_found_it() -> None:
    counted = Counted()
    for _ in range(2):
        with pytest.raises(FailureError, match="too long"):
            counted.ask("x" * LONG)
    assert counted.written == 1
    (kept,) = (one.result for one in counted.prompts._known)
    assert isinstance(kept, FailureError)
    assert kept.__traceback__ is None
