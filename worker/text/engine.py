"""Text generation with mlx-lm: joins requests to a batch. Tokens in, text out, each request with its own sampler,
constraint and end.

A Batch (worker/text/batch.py) computes; which one is decided in worker/text/make_batch.py. Reads log-probabilities from
the device only for requests that ask for them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.cache.kv_caches import can_be_shortened, shorten
from worker.cache.prompt_cache import PromptCache, default_bytes
from worker.cache.store import MemoryStore, Store
from worker.cache.worthwhile import WORTHWHILE, longest_common, worthwhile
from worker.chat.renderers import renderer_of
from worker.chat.writer import ChatWriter
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.generation.generation import Generation, limit_wired_memory
from worker.generation.prompt import WrittenPrompt, checkpoints, write_prompt
from worker.generation.sequence import Sequence
from worker.loading.model_folder import load_folder
from worker.options import read_options
from worker.text.batch import Held
from worker.text.draft_model import with_draft
from worker.text.make_batch import MakeBatch, make_batch
from worker.text.options import TextOptions


@dataclass(slots=True, frozen=True)
class _LiveText:
    """A request in the batch. checkpoints: the kinds of those that its prefill has still to reach, in their order."""

    sequence: Sequence
    checkpoints: list[str]


class TextEngine:
    """Engine for `text-gen` models. `loaded`: the model; `generation`: what its requests mean.

    Mutable state: the batch, the prompt cache, and the live requests: their sequences by uid, their uids by id.
    """

    def __init__(
        self,
        assign: Assign,
        report: Report,
        *,
        make_batch: MakeBatch = make_batch,
        make_store: Callable[[], Store] = MemoryStore,
    ) -> None:
        options = read_options(TextOptions, assign.options, "text")
        self.loaded = load_folder(Path(assign.path), report, options.adapter_path, options.chat_template)
        draft = None
        if options.draft_model is not None:
            self.loaded, draft = with_draft(self.loaded, options.draft_model, report)
        tokenizer = self.loaded.tokenizer
        context = options.context_length or self.loaded.context_length
        self._writer = ChatWriter([renderer_of(tokenizer)], options.tool_form)
        self.generation = Generation(tokenizer, self.loaded.vocabulary, context)
        self._batch = make_batch(self.loaded, draft, options)
        # After the batch has been made, which wires as much as the machine recommends.
        limit_wired_memory(assign.limit_bytes)
        cache_bytes = options.prompt_cache_bytes
        if cache_bytes is None:
            cache_bytes = default_bytes(assign.limit_bytes, self.loaded.weights_bytes)
        self._prompts = PromptCache(options.prompt_cache_tokens, cache_bytes, make_store())
        self._shares_live = self._prompts.is_on and can_be_shortened(self.loaded.model)
        self._keeps_checkpoints = self._prompts.is_on and not self._shares_live
        self._live: dict[int, _LiveText] = {}
        self._uids: dict[bytes, int] = {}

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.loaded.weights_bytes, self.generation.context)

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        prompts = self._prompts
        return EngineStats(len(self._uids), *self._batch.counts(), len(prompts), prompts.tokens, prompts.nbytes)

    def add(self, request_id: bytes, payload: bytes) -> None:
        request = unpack(Generate, payload)
        sampler, processors = self.generation.sampling(request)
        self.generation.check_characters(request)
        prompt = write_prompt(request, self.loaded.tokenizer, self._writer, self.loaded.vocabulary)
        tokens = prompt.tokens
        max_tokens = self.generation.max_tokens(request, len(tokens))
        answer, constraint = self.generation.answer(request, tokens, is_generic=prompt.is_generic)
        if constraint is not None:
            processors = [*processors, constraint]
        cache, cached = self._fetch(tokens)
        points = self._checkpoints(prompt, cached)
        ends = [cached, *points, len(tokens)]
        sequence = self.generation.sequence(
            request_id,
            request,
            answer,
            constraint,
            prompt_tokens=len(tokens),
            cached_tokens=cached,
            ignored=prompt.ignored,
        )
        uid = self._batch.insert(
            [tokens[begin:end] for begin, end in pairwise(ends)],
            max_tokens,
            cache=cache,
            tokens=tokens[:cached],
            sampler=sampler,
            processors=processors,
            wants_logprobs=request.logprobs is not None,
        )
        self._uids[request_id] = uid
        self._live[uid] = _LiveText(sequence, list(points.values()))

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        stopped: list[int] = []
        ends, decoded = self._batch.next()
        if ends:
            self._keep_checkpoints(ends)
        for one in decoded:
            uid, reason = one.uid, one.finish_reason
            sequence = self._live[uid].sequence
            output = sequence.advance(one.token, one.logprobs, reason)
            if one.held is not None:
                self._prompts.store(one.held.tokens, one.held.cache)
            if output is None:
                continue
            outputs.append(output)
            if output.kind != PARTIAL:
                del self._live[uid], self._uids[sequence.request_id]
                # A sequence with a reason has left the batch already. One that ends by a stop string or a failure has
                # not.
                if reason is None:
                    stopped.append(uid)
        if stopped:
            self._store(self._batch.remove(stopped, return_prompt_caches=self._prompts.is_on).values())
        return outputs

    def cancel(self, request_id: bytes) -> None:
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            del self._live[uid]
            keeps = self._prompts.is_on and any(uid == held for held, _ in self._batch.held())
            self._store(self._batch.remove([uid], return_prompt_caches=keeps).values())

    def _fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """As PromptCache.fetch, which first gets a copy of the cache of a live sequence if that shares more."""
        if self._shares_live:
            found = longest_common(self._batch.held(), tokens, self._prompts.known(tokens))
            if found is not None:
                uid, common = found
                ((cache, _),) = self._batch.extract_cache([uid]).values()
                shorten(cache, common)
                self._prompts.store(tokens[:common], cache)
        return self._prompts.fetch(tokens)

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
