"""Text generation with mlx-lm: every live request decodes in one batch.

worker/text/continuous_batch.py owns the batch; this file joins it to requests: tokens in, text out, each with its own
sampler, constraint and end. Reads no logprob from the device unless a request asks for it.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.cache.prompt_cache import (
    WORTHWHILE,
    PromptCache,
    can_be_batched,
    can_be_shortened,
    default_bytes,
    longest_common,
    shorten,
    worthwhile,
)
from worker.engine import MemoryFacts, ModelFacts, Report
from worker.generation.generation import Generation, limit_wired_memory
from worker.generation.prompt import checkpoints, prompt_tokens
from worker.generation.sequence import Sequence
from worker.loading.model_folder import LoadedModel, load_folder
from worker.options import folder_path, read_options, template, whole_number
from worker.text.continuous_batch import ContinuousBatch
from worker.text.draft_model import with_draft
from worker.text.turns import Quantisation, TurnGenerator


@dataclass(slots=True, frozen=True)
class TextOptions:
    """Sequences that decode together, prompts read together, prompt tokens per step; how much of earlier prompts is
    kept (0: nothing; bytes None: a share of the memory limit); the context in tokens, 0 for the model's own; the folder
    of a LoRA adapter; a chat template or its file; the folder of a draft model and how many tokens it proposes at a
    time; the bits of the key-value cache (None: not quantised), how many numbers share a scale, and from how many
    tokens on."""

    completion_batch_size: int = whole_number(32)
    prefill_batch_size: int = whole_number(8)
    prefill_step_size: int = whole_number(2048)
    prompt_cache_tokens: int = whole_number(131_072, least=0)
    prompt_cache_bytes: int | None = whole_number(None, least=0)
    context_length: int = whole_number(0, least=0)
    adapter_path: str | None = folder_path()
    chat_template: str | None = template()
    draft_model: str | None = folder_path()
    num_draft_tokens: int = whole_number(3)
    kv_bits: int | None = whole_number(None)
    kv_group_size: int = whole_number(64)
    quantized_kv_start: int = whole_number(5000, least=0)


class TextEngine:
    """Engine for `text-gen` models. Mutable state: the generator's batch, the same sequences by uid and by id, and of
    those that have still to read up to checkpoints, the kinds of these."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = read_options(TextOptions, assign.options, "text")
        self._loaded = load_folder(Path(assign.path), report, options.adapter_path, options.chat_template)
        draft = None
        if options.draft_model is not None:
            self._loaded, draft = with_draft(self._loaded, options.draft_model, report)
        tokenizer = self._loaded.tokenizer
        context = options.context_length or self._loaded.context_length
        self._generation = Generation(tokenizer, self._loaded.vocabulary, context)
        self._generator = _make_generator(self._loaded, draft, options)
        # After the generator's constructor, which wires as much as the machine recommends.
        limit_wired_memory(assign.memory_limit_bytes)
        cache_bytes = options.prompt_cache_bytes
        if cache_bytes is None:
            cache_bytes = default_bytes(assign.memory_limit_bytes, self._loaded.weights_bytes)
        self._prompts = PromptCache(options.prompt_cache_tokens, cache_bytes)
        self._shares_live = self._prompts.is_on and can_be_shortened(self._loaded.model)
        self._keeps_histories = self._prompts.is_on and not self._shares_live
        self._sequences: dict[int, Sequence] = {}
        self._uids: dict[bytes, int] = {}
        self._unread: dict[int, list[str]] = {}

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self._loaded.weights_bytes, self._generation.context)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def add(self, request_id: bytes, payload: bytes) -> None:
        request = unpack(Generate, payload)
        sampler, processors = self._generation.sampling(request)
        self._generation.check_characters(request)
        tokens = prompt_tokens(request, self._loaded.tokenizer, self._loaded.vocabulary)
        max_tokens = self._generation.max_tokens(request, len(tokens))
        answer, constraint = self._generation.answer(request, tokens)
        if constraint is not None:
            processors = [*processors, constraint]
        cache, cached = self._fetch(tokens)
        points = self._checkpoints(request, tokens, cached)
        ends = [cached, *points, len(tokens)]
        sequence = self._generation.sequence(
            request_id, request, answer, constraint, prompt_tokens=len(tokens), cached_tokens=cached
        )
        uid = self._generator.insert(
            [tokens[begin:end] for begin, end in pairwise(ends)],
            max_tokens,
            cache=cache,
            tokens=tokens[:cached],
            sampler=sampler,
            processors=processors,
            wants_logprobs=request.logprobs is not None,
        )
        self._uids[request_id] = uid
        if points:
            self._unread[uid] = list(points.values())
        self._sequences[uid] = sequence

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        stopped: list[int] = []
        read, responses = self._generator.next()
        if self._unread:
            self._keep_histories(read)
        for response in responses:
            uid, reason = response.uid, response.finish_reason
            sequence = self._sequences[uid]
            output = sequence.advance(response.token, response.logprobs, reason)
            if reason is not None:
                self._prompts.store(response.all_tokens, response.prompt_cache)
            if output is None:
                continue
            outputs.append(output)
            if output.kind != PARTIAL:
                del self._sequences[uid], self._uids[sequence.request_id]
                # A sequence with a reason has left the batch by itself; a stop string or a failure is our finding.
                if reason is None:
                    stopped.append(uid)
        if stopped:
            self._store(self._generator.remove(stopped, return_prompt_caches=self._prompts.is_on))
        return outputs

    def cancel(self, request_id: bytes) -> None:
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            del self._sequences[uid]
            self._unread.pop(uid, None)
            keeps = self._prompts.is_on and any(uid == held for held, _ in self._generator.held())
            self._store(self._generator.remove([uid], return_prompt_caches=keeps))

    def _fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """As the prompt cache's, which first gets a copy of what a live sequence has read, if that is more."""
        if self._shares_live:
            found = longest_common(self._generator.held(), tokens, self._prompts.known(tokens))
            if found is not None:
                uid, common = found
                ((cache, _),) = self._generator.extract_cache([uid]).values()
                shorten(cache, common)
                self._prompts.store(tokens[:common], cache)
        return self._prompts.fetch(tokens)

    def _checkpoints(self, request: Generate, tokens: list[int], cached: int) -> dict[int, str]:
        """Where to stop reading this prompt and keep what has been read, and as what."""
        if not self._keeps_histories or len(tokens) <= cached + WORTHWHILE:
            return {}
        return worthwhile(checkpoints(request, self._loaded.tokenizer, tokens), cached)

    def _keep_histories(self, uids: list[int]) -> None:
        """Of those that have just read a part of their prompt to its end, where that end is a checkpoint."""
        begun = self._unread.keys() & uids
        for uid, (cache, tokens) in self._generator.extract_cache(begun).items():
            kind, *later = self._unread.pop(uid)
            if later:
                self._unread[uid] = later
            self._prompts.store(tokens, cache, kind)

    def _store(self, caches: dict[int, tuple[list[Any], list[int]]]) -> None:
        for cache, tokens in caches.values():
            self._prompts.store(tokens, cache)


def _make_generator(loaded: LoadedModel, draft_model: Any, options: TextOptions) -> ContinuousBatch | TurnGenerator:
    """All in one batch, unless the model, or what is asked of it, exists for single sequences only."""
    stop_tokens = sorted(loaded.tokenizer.eos_token_ids)
    # Sequences are also removed between steps: all on one stream, nothing to synchronise.
    stream = mx.default_stream(mx.default_device())
    if draft_model is None and options.kv_bits is None and can_be_batched(loaded.model):
        return ContinuousBatch(
            loaded.model,
            stop_tokens=stop_tokens,
            completion_batch_size=options.completion_batch_size,
            prefill_batch_size=options.prefill_batch_size,
            prefill_step_size=options.prefill_step_size,
            stream=stream,
        )
    return TurnGenerator(
        loaded.model,
        draft_model,
        stop_tokens=stop_tokens,
        completion_batch_size=options.completion_batch_size,
        prefill_step_size=options.prefill_step_size,
        num_draft_tokens=options.num_draft_tokens,
        quantisation=Quantisation(options.kv_bits, options.kv_group_size, options.quantized_kv_start),
        stream=stream,
    )
