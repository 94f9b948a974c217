"""Embeddings and reranking: inputs of all live requests, padded into batches of a bounded size.

One step tokenises some texts and runs one batch. Requests take turns in both, input by input, so that a request with
thousands of texts does not delay one with a single text. The vector of an input does not depend on the rest of its
batch.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx

from broker.wire.body import ProtocolError, T, to_map
from broker.wire.failure import Code, Failure, FailureError, invalid, named_line
from broker.wire.outputs import ERROR, FINAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Embed, Rerank
from worker.embeddings.encoder import Encoder, Row
from worker.embeddings.step_cost import step_cost
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.generation.prompt import checked_ids
from worker.memory.cost import WorkCost
from worker.memory.limits import limits_of
from worker.memory.step_room import StepRoom
from worker.options import read_options, whole_number
from worker.process.device_errors import is_device_error
from worker.process.intake import taking_in

log = logging.getLogger("worker")

# Tokens of a batch, padding included: bounds the time and memory of a step. On a CPU large batches are no faster, and a
# step of many seconds looks hung.
_BATCH_TOKENS = 8192 if mx.metal.is_available() else 512

# Characters that one step tokenises: about 15 ms. A longer text takes a step of its own.
_STEP_CHARACTERS = 32_768

# How long a batch waits for as many requests as have just ended together: their clients ask again within a millisecond
# or two, and without the others the first would be computed alone each time.
_COMPANY_SECONDS = 0.002

# Memory that freed arrays may keep. Batches differ in shape: an unbounded cache would hold arrays of every shape.
_CACHE_BYTES = 256 * 2**20


@dataclass(slots=True, frozen=True)
class EmbeddingOptions:
    """Tokens of one step, padding included."""

    batch_tokens: int = whole_number(_BATCH_TOKENS)


@dataclass(slots=True)
class _Work:
    """One request. param: the field of its inputs; sizes: of these, in characters or tokens; tokenise: number of an
    input -> row; waiting: numbers of rows that must still run, the shortest first, empty until all are tokenised;
    results: by number of the row."""

    request_id: bytes
    param: str
    sizes: list[int]
    tokenise: Callable[[int], Row]
    dimensions: int | None = None
    rows: list[Row] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    results: dict[int, mx.array] = field(default_factory=dict)

    @property
    def is_tokenised(self) -> bool:
        return len(self.rows) == len(self.sizes)

    def tokenise_next(self) -> int:
        """Tokenise one input; its size. Raises FailureError."""
        number = len(self.rows)
        self.rows.append(self.tokenise(number))
        if self.is_tokenised:
            # Neighbours in a batch have about the same length, so that there is little padding.
            self.waiting = sorted(range(len(self.rows)), key=lambda number: len(self.rows[number].tokens))
        return self.sizes[number]


class EmbeddingEngine:
    """Engine for `embeddings` models, cross-encoders included. `encoder`: the model.

    Mutable state: `_works`, the requests by id, in the order of their turns; how many requests ended with the last
    batch, and until when as many are waited for; how many tokens have been computed.
    """

    def __init__(self, assign: Assign, report: Report) -> None:
        self._batch_tokens = read_options(EmbeddingOptions, assign.options, "embedding").batch_tokens
        limits = limits_of(assign, cache_bytes=_CACHE_BYTES)  # before anything is loaded
        self.encoder = Encoder(Path(assign.path), report)
        work = step_cost(self.encoder) if assign.share_bytes else WorkCost()
        self.room = StepRoom(
            work,
            fixed=mx.get_active_memory(),
            most_tokens=self._batch_tokens,
            limits=limits,
            share_bytes=assign.share_bytes,
            limit_bytes=assign.limit_bytes,
        )
        self._works: dict[bytes, _Work] = {}
        self._company, self._company_until = 0, 0.0
        self._prompt_tokens = 0

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.encoder.weights_bytes, self.encoder.context_length)

    @property
    def has_work(self) -> bool:
        return any(
            not work.is_tokenised or self._can_run(work) or self._can_never_run(work) for work in self._works.values()
        )

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        works = list(self._works.values())
        waiting = sum(not work.is_tokenised for work in works)
        prefilling = len(works) - waiting
        counted = {"waiting_for_room": self.room.waiting, "prompt_tokens": self._prompt_tokens}
        return EngineStats(len(works), waiting, prefilling, **counted)

    def add(self, request_id: bytes, payload: bytes) -> None:
        if self.encoder.is_reranker:
            rerank = _expect(Rerank, payload, "this model scores pairs of texts: it can rerank, but not embed")
            work = self._pairs(request_id, rerank)
        else:
            embed = _expect(Embed, payload, "this model makes vectors: it can embed, but not rerank")
            dimensions = self._dimensions(embed.dimensions)
            cuts = embed.truncate
            inputs = [self._shortened(value) for value in embed.inputs] if cuts else embed.inputs
            sizes = [self._size(value, number) for number, value in enumerate(inputs)]

            def tokenise(number: int) -> Row:
                return self._input(inputs[number], number, cuts=cuts)

            work = _Work(request_id, "inputs", sizes, tokenise, dimensions)
        if not work.sizes:
            raise invalid("there is no input", param="inputs")
        self._works[request_id] = work

    def step(self) -> list[Output]:
        outputs = [*self._tokenise(), *self._refuse()]
        if self._waits_for_company:
            return outputs
        batch = self._next_batch()
        if not batch:
            return outputs
        live = len(self._works)
        rows = [work.rows[number] for work, number in batch]
        results = self.encoder.run(rows)
        self._prompt_tokens += sum(len(row.tokens) for row in rows)
        for (work, number), result in zip(batch, results, strict=True):
            work.results[number] = result
            if len(work.results) == len(work.rows):
                del self._works[work.request_id]
                outputs.append(Output(work.request_id, FINAL, self._final(work)))
        self._company, self._company_until = live - len(self._works), monotonic() + _COMPANY_SECONDS
        return outputs

    def cancel(self, request_id: bytes) -> None:
        self._works.pop(request_id, None)

    @property
    def _waits_for_company(self) -> bool:
        """Whether a batch could run that is better run later."""
        is_alone = len(self._works) < self._company and monotonic() < self._company_until
        return is_alone and any(map(self._can_run, self._works.values()))

    def _next_batch(self) -> list[tuple[_Work, int]]:
        """A row of each request in turn, until the batch is full; at least one."""
        batch: list[tuple[_Work, int]] = []
        longest = 0
        turns = deque(work for work in self._works.values() if self._can_run(work))
        self.room.waiting = sum(bool(work.waiting) for work in self._works.values()) - len(turns)
        while turns:
            work = turns.popleft()
            longest = max(longest, _next_length(work))
            is_large = (len(batch) + 1) * longest > self._batch_tokens or not self.room.fits(len(batch) + 1, longest)
            if batch and is_large:
                break
            batch.append((work, work.waiting.pop()))
            if self._can_run(work):
                turns.append(work)
        return batch

    def _can_run(self, work: _Work) -> bool:
        """Whether its longest row may be computed now, alone."""
        return bool(work.waiting) and self.room.fits(1, _next_length(work))

    def _can_never_run(self, work: _Work) -> bool:
        """Whether the largest share has become too small for its longest row."""
        return bool(work.waiting) and not self.room.can_ever_fit(_next_length(work))

    def _refuse(self) -> list[Output]:
        """The ends of requests that wait for more memory than there can be by now."""
        refused = []
        for work in [work for work in self._works.values() if self._can_never_run(work)]:
            del self._works[work.request_id]
            where = f"{work.param}[{work.waiting[-1]}]"
            refused.append(_error(work, self._too_large(_next_length(work), where)))
        return refused

    def _tokenise(self) -> list[Output]:
        """Tokenise inputs, one of each request in turn; the errors of those that fail."""
        failed = []
        left = _STEP_CHARACTERS
        turns = deque(work for work in self._works.values() if not work.is_tokenised)
        while turns and left > 0:
            work = turns.popleft()
            # Goes behind the others, in the next step too.
            del self._works[work.request_id]
            try:
                with taking_in(work.request_id):
                    left -= work.tokenise_next()
            except FailureError as error:
                failed.append(_error(work, error.failure))
                continue
            except Exception as error:  # of the tokenizer: concerns this input alone
                if is_device_error(error):
                    raise
                log.exception("a request fails while an input is tokenised", extra={"about": work.request_id})
                reason = f"an input cannot be tokenised: {named_line(error)}"
                failed.append(_error(work, Failure(Code.INTERNAL_ERROR, reason)))
                continue
            self._works[work.request_id] = work
            if not work.is_tokenised:
                turns.append(work)
        return failed

    def _size(self, value: object, number: int) -> int:
        where = f"inputs[{number}]"
        if isinstance(value, str):
            return self._checked_characters(len(value), where)
        if isinstance(value, list):
            return self._checked_tokens(len(value), where)
        raise invalid(f"{where} must be a string or a list of token ids", param=where)

    def _shortened(self, value: Any) -> Any:
        """An input of which no more is left than the model may read; of a text a little more."""
        most = self.encoder.most_characters if isinstance(value, str) else self.encoder.context_length
        return value[:most] if most and isinstance(value, str | list) else value

    def _input(self, value: str | list[int], number: int, *, cuts: bool) -> Row:
        where = f"inputs[{number}]"
        if isinstance(value, str):
            return self._fitting(self.encoder.text(value, cuts=cuts), where)
        return self._fitting(Row(checked_ids(value, self.encoder.vocabulary, where)), where)

    def _pairs(self, request_id: bytes, rerank: Rerank) -> _Work:
        sizes = []
        for number, document in enumerate(rerank.documents):
            where = f"documents[{number}]"
            if not isinstance(document, str):
                raise invalid(f"{where} must be a string", param=where)
            sizes.append(self._checked_characters(len(rerank.query) + len(document), where))
        # Tokenised once, with the first pair.
        query = cache(lambda: self.encoder.query(rerank.query))

        def tokenise(number: int) -> Row:
            return self._fitting(self.encoder.pair(query(), rerank.documents[number]), f"documents[{number}]")

        return _Work(request_id, "documents", sizes, tokenise)

    def _checked_characters(self, count: int, where: str) -> int:
        """Raises FailureError for a text that must be too long, without tokenising it."""
        if 0 < self.encoder.most_characters < count:
            context = self.encoder.context_length
            message = f"{where} has {count} characters, the model takes at most {context} tokens"
            raise FailureError(Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, where))
        return count

    def _checked_tokens(self, count: int, where: str) -> int:
        """Raises FailureError for more tokens than the model takes."""
        context = self.encoder.context_length
        if 0 < context < count:
            message = f"{where} has {count} tokens, the model takes at most {context}"
            raise FailureError(Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, where))
        return count

    def _fitting(self, row: Row, where: str) -> Row:
        if not row.tokens:
            raise invalid(f"{where} is empty", param=where)
        length = self._checked_tokens(len(row.tokens), where)
        if not self.room.can_ever_fit(length):
            raise FailureError(self._too_large(length, where))
        self.room.comes(length)
        return row

    def _too_large(self, length: int, where: str) -> Failure:
        needed, most = (f"{size / 2**20:.1f} MiB" for size in (self.room.needs(1, length), self.room.limit))
        message = f"{where} has {length} tokens, which need {needed} of memory; the process can have at most {most}"
        return Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, where)

    def _dimensions(self, asked: int | None) -> int | None:
        if asked is not None and not 1 <= asked <= self.encoder.size:
            message = f"dimensions must be from 1 to {self.encoder.size}, not {asked}"
            raise invalid(message, param="dimensions")
        return asked

    def _final(self, work: _Work) -> dict[str, Any]:
        results = mx.stack([work.results[number] for number in range(len(work.rows))])
        if work.dimensions is not None:
            results = results[:, : work.dimensions]
            results = results / mx.maximum(mx.linalg.norm(results, axis=1, keepdims=True), 1e-12)
        contiguous: Any = mx.contiguous(results)
        packed = bytes(memoryview(contiguous))
        prompt_tokens = sum(len(row.tokens) for row in work.rows)
        if self.encoder.is_reranker:
            return {"scores": packed, "prompt_tokens": prompt_tokens}
        return {"vectors": packed, "size": results.shape[1], "prompt_tokens": prompt_tokens}


def _next_length(work: _Work) -> int:
    return len(work.rows[work.waiting[-1]].tokens)


def _error(work: _Work, failure: Failure) -> Output:
    return Output(work.request_id, ERROR, to_map(failure))


def _expect(kind: type[T], payload: bytes, hint: str) -> T:
    """The payload. Raises FailureError with `hint` if it is of the other kind."""
    other: type[Embed | Rerank] = Rerank if kind is Embed else Embed
    try:
        return unpack(kind, payload)
    except ProtocolError:
        with suppress(ProtocolError):
            unpack(other, payload)
            raise invalid(hint, param="model") from None
        raise
