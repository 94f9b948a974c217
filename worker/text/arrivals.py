"""Requests to a text model before they are in the batch: read from the wire, and taken back from a batch."""

from dataclasses import dataclass, field, replace

from broker.wire.packing import unpack
from broker.wire.work import Generate
from worker.begun import Begun, begun_of
from worker.chat.writer import ChatWriter
from worker.generation.answer import Answer, EitherAnswer
from worker.generation.constraints.constraint import Constraint
from worker.generation.echo import Echo, Recital, reciting
from worker.generation.generation import Generation
from worker.generation.prompt import WrittenPrompt, checked_ids, write_prompt
from worker.generation.sampling import LogitsProcessor, Sampler
from worker.generation.sequence import Sequence
from worker.loading.model_folder import LoadedModel
from worker.text.written import WrittenPrompts


@dataclass(slots=True, frozen=True)
class Arrived:
    """A request that is not in the batch. said: the tokens of its answer, if that has begun, here or in another
    process; sequence: then its state; answer, constraint, echo: of one that has not."""

    request: Generate
    written: WrittenPrompt
    sampler: Sampler
    processors: list[LogitsProcessor]
    answer: Answer | EitherAnswer | None
    constraint: Constraint | None
    echo: Echo | None = None
    said: list[int] = field(default_factory=list)
    sequence: Sequence | None = None

    @property
    def drawn(self) -> int:
        """How many tokens of the prompt are drawn, not prefilled."""
        return 0 if self.echo is None else self.echo.drawn

    @property
    def tokens(self) -> list[int]:
        """What is prefilled."""
        return self.written.tokens[:1] if self.drawn else [*self.written.tokens, *self.said]


class Arrivals:
    """Reads the requests to one model. writer: of its tokenizer."""

    def __init__(self, generation: Generation, loaded: LoadedModel, writer: ChatWriter) -> None:
        self._generation = generation
        self._loaded = loaded
        self._writer = writer
        self._written = WrittenPrompts(self._write)

    def prepare(self, payload: bytes) -> None:
        """Write the prompt of a request that `read` will be called for. Raises FailureError. For another thread, while
        `read` is called for no request that has not been prepared."""
        self._written.write_ahead(unpack(Generate, payload), payload)

    def forget(self) -> None:
        """No prompt is kept for later."""
        self._written.clear()

    def _write(self, request: Generate, *, counts: bool = False) -> WrittenPrompt:
        self._generation.check_characters(request, counts=counts)
        return write_prompt(request, self._loaded.tokenizer, self._writer, self._loaded.vocabulary)

    def read(self, payload: bytes, request_id: bytes | None = None) -> Arrived:
        """A request. request_id: None to count its prompt only. Raises FailureError."""
        request = unpack(Generate, payload)
        counts = request_id is None
        begun = None if counts else begun_of(request)
        said = [] if begun is None else checked_ids(begun.ids, self._loaded.vocabulary, "begun.ids")
        sampler, processors = self._generation.sampling(request, len(said))
        prompt = self._write(request, counts=True) if counts else self._written.prompt(request, payload)
        arrived = self._following(request, prompt, sampler, processors, said)
        echo = self._generation.echo(request, prompt.tokens)
        if begun is not None and request_id is not None:
            return replace(arrived, sequence=self.sequence(request_id, replace(arrived, echo=echo), begun=begun))
        if echo is not None and echo.drawn:
            sampler = reciting(echo.recited[1:], sampler)
            return replace(arrived, sampler=sampler, processors=[Recital(echo.drawn, arrived.processors)], echo=echo)
        return replace(arrived, echo=echo)

    def again(self, arrived: Arrived, more: list[int], sequence: Sequence) -> Arrived:
        """A request that leaves the batch behind these tokens. It comes back like one from another process, but what it
        has said stays in its sequence."""
        said = [*arrived.said, *more]
        sampler, processors = self._generation.sampling(arrived.request, len(said))
        again = self._following(arrived.request, arrived.written, sampler, processors, said)
        sequence.follow(again.constraint)
        return replace(again, sequence=sequence)

    def sequence(self, request_id: bytes, arrived: Arrived, *, cached: int = 0, begun: Begun | None = None) -> Sequence:
        """The state of its answer. cached: tokens of its prompt. Raises FailureError."""
        return self._generation.sequence(
            request_id,
            arrived.request,
            arrived.answer,
            arrived.constraint,
            prompt_tokens=len(arrived.written.tokens),
            cached_tokens=cached,
            echo=arrived.echo,
            ignored=arrived.written.ignored,
            begun=begun,
        )

    def _following(
        self,
        request: Generate,
        prompt: WrittenPrompt,
        sampler: Sampler,
        processors: list[LogitsProcessor],
        said: list[int],
    ) -> Arrived:
        """With what follows the answer from behind these tokens on. Raises FailureError."""
        answer, constraint = self._generation.answer(request, prompt.tokens, is_generic=prompt.is_generic)
        followers = self._generation.followers(request, answer, constraint, said)
        return Arrived(request, prompt, sampler, [*processors, *followers], answer, constraint, said=said)
