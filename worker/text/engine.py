"""Text generation with mlx-lm: joins requests to a batch. Tokens in, text out, each request with its own sampler,
constraint and end.

A Batch (worker/text/batch.py) computes; which one is decided in worker/text/make_batch.py. Reads log-probabilities from
the device only for requests that ask for them.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import trim_prompt_cache

from broker.wire.outputs import PARTIAL, Output, error_output
from broker.wire.to_workers import Assign
from worker.begun import cannot_go_on
from worker.cache.disk.disk_cache import DiskCache
from worker.cache.disk.naming import BLOCK
from worker.cache.kv_caches import can_be_shortened, shorten
from worker.cache.prompt_cache import PromptCache, default_bytes
from worker.cache.store import MemoryStore, Store
from worker.cache.worthwhile import WORTHWHILE, longest_common, worthwhile
from worker.chat.renderers import renderer_of
from worker.chat.writer import ChatWriter
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.generation.generation import Generation
from worker.generation.prompt import WrittenPrompt, checkpoints
from worker.generation.sequence import Sequence
from worker.loading.device import computes_in_one_thread
from worker.loading.model_folder import load_folder
from worker.loading.vocabulary import vocabulary_read_once
from worker.memory.limits import limits_of
from worker.memory.room import Admitted, MemoryRoom, Refused, Size
from worker.options import read_options
from worker.process.intake import taking_in
from worker.text.arrivals import Arrivals, Arrived
from worker.text.batch import Held
from worker.text.draft_model import with_draft
from worker.text.make_batch import MakeBatch, make_batch
from worker.text.make_disk import make_disk
from worker.text.memory_plan import plan_of
from worker.text.options import TextOptions
from worker.text.saved_prompts import SavedPrompts
from worker.text.warm_up import needs_warm_up, warm_up

# Tokens of an answer of unknown length that have room at a time; how many before their end there should be more, and
# how often that is tried.
_BLOCK = 512
_AHEAD = 64
_EVERY = 16


@dataclass(slots=True)
class _Growth:
    """A sequence that has no room for its whole answer yet. answer: tokens that it may have; reserved: those that have
    room; tokens: of the answer so far."""

    arrived: Arrived
    answer: int
    reserved: int
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class _LiveText:
    """A request in the batch. checkpoints: the kinds of those that its prefill has still to reach, in their order;
    growth: None if there is room for the whole answer."""

    sequence: Sequence
    checkpoints: list[str]
    growth: _Growth | None


class TextEngine:
    """Engine for `text-gen` models. `loaded`: the model; `generation`: what its requests mean.

    Mutable state: the batch, the prompt cache, the live requests (their sequences by uid, their uids by id), the room:
    who waits for memory, and what has been counted.
    """

    def __init__(
        self,
        assign: Assign,
        report: Report,
        *,
        make_batch: MakeBatch = make_batch,
        make_store: Callable[[], Store] = MemoryStore,
        make_disk: Callable[[Assign, TextOptions], DiskCache | None] = make_disk,
    ) -> None:
        options = read_options(TextOptions, assign.options, "text")
        limits = limits_of(assign)  # before anything is loaded
        with vocabulary_read_once():
            self.loaded = load_folder(Path(assign.path), report, options.adapter_path, options.chat_template)
            draft = None
            if options.draft_model is not None:
                self.loaded, draft = with_draft(self.loaded, options.draft_model, report)
            tokenizer = self.loaded.tokenizer
            self._has_draft = draft is not None  # which draws as well: how often, nothing tells
            context = options.context_length or self.loaded.context_length
            self._writer = ChatWriter([renderer_of(tokenizer)], options.tool_form)
            self.generation = Generation(tokenizer, self.loaded.vocabulary, context)
            self._arrivals = Arrivals(self.generation, self.loaded, self._writer)
        self._batch = make_batch(self.loaded, draft, options)
        if needs_warm_up():
            warm_up(self._batch)
        self._warmed_up = self._batch.prefilled
        self._batch.decode_steps = self._batch.late_steps = 0
        self._generated = self._cached = 0
        cache_bytes = options.prompt_cache_bytes
        if cache_bytes is None:
            cache_bytes = default_bytes(assign.limit_bytes, self.loaded.weights_bytes)
        in_blocks = can_be_shortened(self.loaded.model)
        disk = make_disk(assign, options) if options.prompt_cache_tokens and cache_bytes else None
        self._saved: SavedPrompts[Admitted[Arrived]] = SavedPrompts(disk, self._batch, in_blocks=in_blocks)
        # What precedes decides whether a token attends to others before they are quantised: it must not depend on where
        # a cache comes from.
        self._cut = BLOCK if disk is not None and options.kv_bits is not None else 1
        self._prompts = PromptCache(options.prompt_cache_tokens, cache_bytes, self._saved.over(make_store()))
        self._shares_live = self._prompts.is_on and in_blocks
        self._keeps_checkpoints = self._prompts.is_on and not self._shares_live
        self._live: dict[int, _LiveText] = {}
        self._uids: dict[bytes, int] = {}
        plan = plan_of(assign, self.loaded, draft, options, padded=self._batch.is_padded)
        self.room: MemoryRoom[Arrived] = MemoryRoom(plan, limits, self._prompts)

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.loaded.weights_bytes, self.generation.context, computes_in_one_thread())

    @property
    def has_work(self) -> bool:
        return bool(self._live) or self.room.has_news or self._saved.reading > 0

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        prompts, waiting, reading = self._prompts, self.room.waiting, self._saved.reading
        begun = self._batch.counts()
        return EngineStats(
            len(self._uids) + waiting + reading,
            begun.waiting + waiting + reading,
            begun.prefilling,
            begun.decoding,
            len(prompts),
            prompts.tokens,
            prompts.nbytes,
            waiting,
            self._generated,
            self._cached + self._batch.prefilled - self._warmed_up,
            self._cached,
            *self._saved.counts,
            self._batch.decode_steps,
            self._batch.late_steps,
        )

    def add(self, request_id: bytes, payload: bytes) -> None:
        arrived = self._arrivals.read(payload, request_id)
        request, said, prompt = arrived.request, len(arrived.said), len(arrived.written.tokens)
        answer = self.generation.max_tokens(request, prompt) - said
        if said and answer < 1:
            raise cannot_go_on("its tokens are all that it may have")
        size = Size(
            prompt + said,
            max(0 if arrived.drawn else 1, answer),
            is_stated=not request.max_tokens_is_default,
            param="prompt" if request.messages is None else "messages",
            first=_BLOCK if request.max_tokens_is_default and self._can_begin_again(arrived) else 0,
        )
        self.room.enter(request_id, size, arrived)
        self._admit()

    def prepare(self, payload: bytes) -> None:
        """As in Engine."""
        self._arrivals.prepare(payload)

    def count(self, payload: bytes) -> Iterator[int | None]:
        """As Count of worker/engine.py, in one piece."""
        arrived = self._arrivals.read(payload)
        self.generation.check_max_tokens(arrived.request)
        yield len(arrived.written.tokens)

    def _admit(self) -> None:
        """Put the requests into the batch for which there is room."""
        while (admitted := self.room.admit()) is not None:
            try:
                with taking_in(admitted.request_id):
                    self._begin(admitted)
            except BaseException:
                self.room.leave(admitted.request_id)
                raise

    def _begin(self, admitted: Admitted[Arrived]) -> None:
        """Insert it, unless its cache has to be read first."""
        tokens = admitted.what.tokens
        known = self._prompts.known(tokens)
        if not self._saved.begin(admitted.request_id, admitted, tokens, known - known % self._cut):
            self._insert(admitted, *self._fetch(tokens))

    def _insert(self, admitted: Admitted[Arrived], cache: list[Any] | None, cached: int) -> None:
        """cache: holds the first `cached` tokens."""
        request_id, arrived, max_tokens, reserved = admitted
        tokens = arrived.tokens
        self._cached += cached
        points = {} if arrived.drawn else self._checkpoints(arrived.written, cached)
        ends = [cached, *points, len(tokens)]
        sequence = arrived.sequence or self._arrivals.sequence(request_id, arrived, cached=cached)
        uid = self._batch.insert(
            [tokens[begin:end] for begin, end in pairwise(ends)],
            max_tokens + arrived.drawn,
            cache=cache,
            tokens=tokens[:cached],
            sampler=arrived.sampler,
            processors=arrived.processors,
            wants_logprobs=arrived.request.logprobs is not None,
        )
        growth = _Growth(arrived, max_tokens, reserved) if reserved < max_tokens else None
        self._uids[request_id] = uid
        self._live[uid] = _LiveText(sequence, list(points.values()), growth)

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        stopped: list[int] = []
        if self.room.has_news:
            outputs += map(_ended, self.room.refused())
            self._admit()
        for admitted, cache, cached in self._saved.ended(waits=not self._live):
            self._insert_read(admitted, cache, cached)
        if not self._live:
            return outputs
        self._batch.bound_step(self.room.piece)
        ends, decoded = self._batch.next()
        if ends:
            self._keep_checkpoints(ends)
        self._generated += len(decoded)
        for one in decoded:
            uid, reason = one.uid, one.finish_reason
            live = self._live[uid]
            sequence = live.sequence
            output = sequence.advance(one.token, one.logprobs, reason)
            if one.held is not None:
                self.room.leave(sequence.request_id)
                self._prompts.store(one.held.tokens, one.held.cache)
            if live.growth is not None and reason is None and (output is None or output.kind == PARTIAL):
                self._grow(uid, sequence, live.growth, one.token)
            if output is None:
                continue
            outputs.append(output)
            if output.kind != PARTIAL:
                del self._live[uid], self._uids[sequence.request_id]
                # A sequence with a reason has left the batch already. One that ends by a stop string or a failure has
                # not.
                if reason is None:
                    self.room.leave(sequence.request_id)
                    stopped.append(uid)
        if stopped:
            self._store(self._batch.remove(stopped, return_prompt_caches=self._prompts.is_on).values())
        self._saved.look()
        if not self._live:
            self._saved.idle()
        return outputs

    def _grow(self, uid: int, sequence: Sequence, growth: _Growth, token: int) -> None:
        """Get room for the next tokens of a sequence in time. Without any it leaves the batch and waits; what it has is
        then read again."""
        growth.tokens.append(token)
        left = growth.reserved - len(growth.tokens)
        if left > _AHEAD or left % _EVERY or growth.reserved == growth.answer:
            return
        request_id = sequence.request_id
        more = min(_BLOCK, growth.answer - growth.reserved)
        if self.room.grow(request_id, more):
            growth.reserved += more
        elif not left:
            done = len(growth.tokens)
            arrived = self._arrivals.again(growth.arrived, growth.tokens, sequence)
            size = Size(len(arrived.tokens), growth.answer - done, is_stated=False, param="messages", first=_BLOCK)
            del self._live[uid], self._uids[request_id]
            held = self._batch.remove([uid], return_prompt_caches=self._prompts.is_on)
            self.room.return_to_front(request_id, size, arrived)
            self._store(held.values())

    def _can_begin_again(self, arrived: Arrived) -> bool:
        """Whether it may leave the batch and come back."""
        return not arrived.drawn and (arrived.request.seed is None or not self._has_draft)

    def hold_prefill(self, is_held: bool) -> None:
        """As in Engine."""
        self._batch.hold_prefill(is_held)

    def forget(self) -> None:
        """As in Engine. What live sequences leave is kept again."""
        self._prompts.clear()
        self._saved.forget()
        self._arrivals.forget()

    def close(self) -> None:
        """As in Engine."""
        self._saved.close()

    def cancel(self, request_id: bytes) -> None:
        self.room.leave(request_id)
        self._saved.drop(request_id)
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            del self._live[uid]
            keeps = self._prompts.is_on and any(uid == held for held, _ in self._batch.held())
            self._store(self._batch.remove([uid], return_prompt_caches=keeps).values())
            if not self._live:
                self._saved.idle()

    def _insert_read(self, admitted: Admitted[Arrived], cache: list[Any] | None, cached: int) -> None:
        """A request whose cache has been read from disk."""
        tokens = admitted.what.tokens
        if cache is None or self._prompts.known(tokens) >= cached:
            cache, cached = self._fetch(tokens)
        elif self._keeps_checkpoints:
            self._prompts.store(tokens[:cached], copy.deepcopy(cache), "user")
        try:
            with taking_in(admitted.request_id):
                self._insert(admitted, cache, cached)
        except BaseException:
            self.room.leave(admitted.request_id)
            raise

    def _fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """As PromptCache.fetch, which first gets a copy of the cache of a live sequence if that shares more."""
        if self._shares_live:
            found = longest_common(self._batch.held(), tokens, self._prompts.known(tokens))
            if found is not None:
                uid, common = found
                ((cache, _),) = self._batch.extract_cache([uid]).values()
                shorten(cache, common)
                self._prompts.store(tokens[:common], cache)
        fetched, cached = self._prompts.fetch(tokens)
        if fetched is None or cached < self._cut:
            return None, 0
        trim_prompt_cache(fetched, cached % self._cut)
        return fetched, cached - cached % self._cut

    def _checkpoints(self, prompt: WrittenPrompt, cached: int) -> dict[int, str]:
        """Where prefill of this prompt pauses to keep its cache, and the kind of that entry."""
        if not self._keeps_checkpoints or len(prompt.tokens) <= cached + WORTHWHILE:
            return {}
        return worthwhile(checkpoints(prompt, self._writer), cached)

    def _keep_checkpoints(self, uids: list[int]) -> None:
        """Keep the caches of those sequences whose segment has ended at a checkpoint."""
        reached = [uid for uid in uids if self._live[uid].checkpoints]
        for uid, held in self._batch.extract_cache(reached).items():
            self._prompts.store(held.tokens, held.cache, self._live[uid].checkpoints.pop(0))

    def _store(self, ended: Iterable[Held]) -> None:
        for held in ended:
            self._prompts.store(held.tokens, held.cache)


def _ended(refused: Refused[Arrived]) -> Output:
    """The end of a request that gets no room any more: of one that had begun, where it is."""
    sequence = refused.what.sequence
    return error_output(refused.request_id, refused.failure) if sequence is None else sequence.cut()
