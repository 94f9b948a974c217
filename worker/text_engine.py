"""Text generation with mlx-lm: every live request decodes in one batch.

mlx-lm's BatchGenerator owns the batch; this file joins it to requests: tokens in, text out, each with its own sampler,
constraint and end. Reads no logprob from the device unless a request asks for it.
"""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from broker.protocol import ERROR, PARTIAL, Assign, Failure, Generate, Output, to_map, unpack
from worker.answer import Answer, AnswerFormat
from worker.constraint import Constraint, Constraints
from worker.engine import MemoryFacts, ModelFacts, Report, RequestError
from worker.logprobs import TokenTexts
from worker.model_folder import load_folder
from worker.prompt import history_length, prompt_characters, prompt_tokens
from worker.prompt_cache import PromptCache, can_be_shortened, default_bytes
from worker.sampling import request_processors, request_sampler
from worker.sequence import Sequence
from worker.text_stream import TextStream, make_detokenizer

log = logging.getLogger("worker")

# What a request without max_tokens may generate where the model does not tell the length of its context.
_DEFAULT_MAX_TOKENS = 4096


@dataclass(slots=True, frozen=True)
class TextOptions:
    """Sequences that decode together, prompts read together, prompt tokens per step; how much of earlier prompts is
    kept (0: nothing; bytes None: a share of the memory limit); the longest context in tokens, 0 for the model's own;
    the folder of a LoRA adapter."""

    completion_batch_size: int = 32
    prefill_batch_size: int = 8
    prefill_step_size: int = 2048
    prompt_cache_tokens: int = 131_072
    prompt_cache_bytes: int | None = None
    context_length: int = 0
    adapter_path: str | None = None


_MAY_BE_ZERO = ("prompt_cache_tokens", "prompt_cache_bytes", "context_length")


class TextEngine:
    """Engine for `text-gen` models. Mutable state: the generator's batch, the same sequences by uid and by id,
    and those whose history is to be kept once it is read."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = _read_options(assign.options)
        self._loaded = load_folder(Path(assign.path), report, options.adapter_path)
        tokenizer = self._loaded.tokenizer
        limits = [limit for limit in (self._loaded.context_length, options.context_length) if limit]
        self._context = min(limits, default=0)
        self._generator: Any = BatchGenerator(
            self._loaded.model,
            stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
            completion_batch_size=options.completion_batch_size,
            prefill_batch_size=options.prefill_batch_size,
            prefill_step_size=options.prefill_step_size,
            # Sequences are also removed between steps: all on one stream, nothing to synchronise.
            stream=mx.default_stream(mx.default_device()),
        )
        # After the generator's constructor, which wires as much as the machine recommends.
        _limit_wired_memory(assign.memory_limit_bytes)
        cache_bytes = options.prompt_cache_bytes
        if cache_bytes is None:
            cache_bytes = default_bytes(assign.memory_limit_bytes, self._loaded.weights_bytes)
        self._prompts = PromptCache(options.prompt_cache_tokens, cache_bytes)
        self._keeps_histories = self._prompts.is_on and not can_be_shortened(self._loaded.model)
        self._format = AnswerFormat(tokenizer)
        self._constraints = Constraints(tokenizer, self._loaded.vocabulary)
        self._texts = TokenTexts(tokenizer)
        # As mlx_lm.server has it: XTC may remove neither the end of a line nor that of the text.
        self._kept_by_xtc = (*tokenizer.encode("\n"), *sorted(tokenizer.eos_token_ids))
        # No prompt can have more characters per token: what must be too long is refused unread, because reading
        # millions of characters would stop every other request of this model for many seconds.
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._sequences: dict[int, Sequence] = {}
        self._uids: dict[bytes, int] = {}
        self._unread: set[int] = set()

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self._loaded.weights_bytes, self._context)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def add(self, request_id: bytes, payload: bytes) -> None:
        request = unpack(Generate, payload)
        sampler = request_sampler(request, self._loaded.vocabulary, self._kept_by_xtc)
        processors = request_processors(request, self._loaded.vocabulary)
        if self._context and (size := prompt_characters(request)) > self._context * self._longest_token:
            raise _too_long(request, f"{size} characters", self._context)
        tokens = prompt_tokens(request, self._loaded.tokenizer, self._loaded.vocabulary)
        max_tokens = self._max_tokens(request, len(tokens))
        answer, constraint = self._answer(request, tokens)
        if constraint is not None:
            processors = [*processors, constraint]
        text = TextStream(make_detokenizer(self._loaded.tokenizer), request.stop)
        cache, cached = self._prompts.fetch(tokens)
        history = history_length(request, self._loaded.tokenizer, tokens) if self._keeps_histories else 0
        begin = max(cached, history)
        (uid,) = self._generator.insert_segments(
            [[tokens[cached:begin], tokens[begin:]]],
            [max_tokens],
            caches=[cache],
            all_tokens=[tokens[:cached]],
            samplers=[sampler],
            logits_processors=[processors],
        )
        self._uids[request_id] = uid
        if history > cached:
            self._unread.add(uid)
        self._sequences[uid] = Sequence(
            request_id,
            text,
            answer,
            stream=request.stream,
            prompt_tokens=len(tokens),
            cached_tokens=cached,
            logprobs=request.logprobs,
            texts=self._texts,
        )

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        stopped: list[int] = []
        read, responses = self._generator.next()
        if self._unread:
            self._keep_histories([part.uid for part in read if part.end_of_segment])
        for response in responses:
            uid, reason = response.uid, response.finish_reason
            sequence = self._sequences[uid]
            try:
                output = sequence.advance(response.token, response.logprobs, reason)
            except Exception as error:
                log.exception("a request fails while its text is made")
                failure = Failure("internal_error", f"cannot turn tokens into text: {type(error).__name__}: {error}")
                output = Output(sequence.request_id, ERROR, to_map(failure))
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
            left = self._generator.remove(stopped, return_prompt_caches=True)
            for cache, tokens in left.values():
                self._prompts.store(tokens, cache)
        return outputs

    def cancel(self, request_id: bytes) -> None:
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            del self._sequences[uid]
            self._unread.discard(uid)
            self._generator.remove([uid])

    def _keep_histories(self, uids: list[int]) -> None:
        """Of those that have just read a part of their prompt to its end, that is the history they began with."""
        begun = self._unread.intersection(uids)
        self._unread -= begun
        for cache, tokens in self._generator.extract_cache(begun).values():
            self._prompts.store(tokens, cache)

    def _answer(self, request: Generate, tokens: list[int]) -> tuple[Answer | None, Constraint | None]:
        """What divides the answer into its parts, and what the answer is bound to. Raises RequestError."""
        thinks = request.messages is not None and self._format.is_thinking(tokens)
        # A model may think freely before it says what it must.
        after = self._loaded.tokenizer.think_end_tokens if thinks else ()
        constraint = self._constraints.processor(request, after)
        if request.messages is None:
            return None, constraint
        if constraint is not None:
            return self._format.constrained(tokens, is_call=bool(request.required_tools)), constraint
        return self._format.answer(tokens, request.tools), None

    def _max_tokens(self, request: Generate, prompt: int) -> int:
        """Tokens that may follow a prompt of `prompt` tokens: what was asked, as far as the context goes."""
        asked = request.max_tokens
        if asked is not None and asked < 1:
            raise RequestError(f"max_tokens is {asked}, at least 1 is expected", param="max_tokens")
        context = self._context
        if not context:
            return asked or _DEFAULT_MAX_TOKENS
        if prompt >= context:
            raise _too_long(request, f"{prompt} tokens", context)
        return min(asked or context, context - prompt)


def _too_long(request: Generate, size: str, context: int) -> RequestError:
    return RequestError(
        f"the prompt has {size}, and the model's context of {context} tokens leaves no room for an answer",
        code="context_length_exceeded",
        param="prompt" if request.messages is None else "messages",
    )


def _read_options(options: dict[str, Any]) -> TextOptions:
    known = {option.name for option in fields(TextOptions)}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"option {name!r} is unknown, the text engine has {', '.join(sorted(known))}")
        least = 0 if name in _MAY_BE_ZERO else 1
        if name == "adapter_path":
            if not isinstance(value, str):
                raise ValueError(f"option {name!r} is {value!r}, the path of a folder is expected")
        elif type(value) is not int or value < least:
            raise ValueError(f"option {name!r} is {value!r}, a whole number of at least {least} is expected")
    return TextOptions(**options)


def _limit_wired_memory(limit_bytes: int) -> None:
    if limit_bytes > 0 and mx.metal.is_available():
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(limit_bytes, recommended))
