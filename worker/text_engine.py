"""Text generation with mlx-lm: every live request decodes in one batch.

mlx-lm's BatchGenerator owns the batch; this file joins it to requests: tokens in, text out, each with its own sampler,
stop strings and end. Reads no logprob from the device, which would cost a third of the speed.
"""

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from broker.protocol import ERROR, FINAL, PARTIAL, Assign, Failure, Generate, Output, to_map, unpack
from worker.engine import MemoryFacts, ModelFacts, Report, RequestError
from worker.model_folder import load_folder
from worker.prompt import prompt_tokens
from worker.sampling import request_processors, request_sampler
from worker.text_stream import TextStream, make_detokenizer

log = logging.getLogger("worker")

# What a request without max_tokens may generate where the model does not tell the length of its context.
_DEFAULT_MAX_TOKENS = 4096


@dataclass(slots=True, frozen=True)
class TextOptions:
    """How the batch is formed: sequences that decode together, prompts read together, prompt tokens per step."""

    completion_batch_size: int = 32
    prefill_batch_size: int = 8
    prefill_step_size: int = 2048


@dataclass(slots=True)
class _Sequence:
    """One request in the batch. `held`: the text of a request that wants no PARTIAL."""

    request_id: bytes
    text: TextStream
    stream: bool
    prompt_tokens: int
    completion_tokens: int = 0
    held: list[str] = field(default_factory=list)


class TextEngine:
    """Engine for `text-gen` models. Mutable state: the generator's batch, and the same sequences by uid and by id."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = _read_options(assign.options)
        self._loaded = load_folder(Path(assign.path), report)
        self._generator: Any = BatchGenerator(
            self._loaded.model,
            stop_tokens=[[token] for token in sorted(self._loaded.tokenizer.eos_token_ids)],
            completion_batch_size=options.completion_batch_size,
            prefill_batch_size=options.prefill_batch_size,
            prefill_step_size=options.prefill_step_size,
            # Sequences are also removed between steps: all on one stream, nothing to synchronise.
            stream=mx.default_stream(mx.default_device()),
        )
        # After the generator's constructor, which wires as much as the machine recommends.
        _limit_wired_memory(assign.memory_limit_bytes)
        # As mlx_lm.server has it: XTC may remove neither the end of a line nor that of the text.
        tokenizer = self._loaded.tokenizer
        self._kept_by_xtc = (*tokenizer.encode("\n"), *sorted(tokenizer.eos_token_ids))
        self._sequences: dict[int, _Sequence] = {}
        self._uids: dict[bytes, int] = {}

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self._loaded.weights_bytes, self._loaded.context_length)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def add(self, request_id: bytes, payload: bytes) -> None:
        request = unpack(Generate, payload)
        sampler = request_sampler(request, self._loaded.vocabulary, self._kept_by_xtc)
        processors = request_processors(request, self._loaded.vocabulary)
        tokens = prompt_tokens(request, self._loaded.tokenizer, self._loaded.vocabulary)
        max_tokens = self._max_tokens(request.max_tokens, len(tokens))
        text = TextStream(make_detokenizer(self._loaded.tokenizer), request.stop)
        (uid,) = self._generator.insert([tokens], [max_tokens], samplers=[sampler], logits_processors=[processors])
        self._sequences[uid] = _Sequence(request_id, text, request.stream, len(tokens))
        self._uids[request_id] = uid

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        removed: list[int] = []
        _, responses = self._generator.next()
        for response in responses:
            uid, reason = response.uid, response.finish_reason
            sequence = self._sequences[uid]
            try:
                output = _advance(sequence, response.token, reason)
            except Exception as error:
                log.exception("a request fails while its text is made")
                failure = Failure("internal_error", f"cannot turn tokens into text: {type(error).__name__}: {error}")
                output = Output(sequence.request_id, ERROR, to_map(failure))
            if output is None:
                continue
            outputs.append(output)
            if output.kind != PARTIAL:
                del self._sequences[uid], self._uids[sequence.request_id]
                # A sequence with a reason has left the batch by itself; a stop string or a failure is our finding.
                if reason is None:
                    removed.append(uid)
        if removed:
            self._generator.remove(removed)
        return outputs

    def cancel(self, request_id: bytes) -> None:
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            del self._sequences[uid]
            self._generator.remove([uid])

    def _max_tokens(self, asked: int | None, prompt: int) -> int:
        """Tokens that may follow a prompt of `prompt` tokens: what was asked, as far as the context goes."""
        if asked is not None and asked < 1:
            raise RequestError(f"max_tokens is {asked}, at least 1 is expected", param="max_tokens")
        context = self._loaded.context_length
        if not context:
            return asked or _DEFAULT_MAX_TOKENS
        if prompt >= context:
            raise RequestError(
                f"the prompt has {prompt} tokens, and the model's context of {context} leaves no room for an answer",
                code="context_length_exceeded",
                param="messages",
            )
        return min(asked or context, context - prompt)


def _advance(sequence: _Sequence, token: int, reason: str | None) -> Output | None:
    """Take one token of a sequence; `reason`: why the generator ended it, `stop` for an end-of-text token."""
    sequence.completion_tokens += 1
    stream = sequence.text
    text = "" if reason == "stop" else stream.push(token)
    if reason is not None:
        text += stream.finish()
    if stream.stopped:
        reason = "stop"
    if reason is None:
        if not text:
            return None
        if sequence.stream:
            return Output(sequence.request_id, PARTIAL, {"text": text})
        sequence.held.append(text)
        return None
    body = {
        "text": "".join([*sequence.held, text]),
        "finish_reason": reason,
        "prompt_tokens": sequence.prompt_tokens,
        "completion_tokens": sequence.completion_tokens,
        "cached_tokens": 0,
    }
    return Output(sequence.request_id, FINAL, body)


def _read_options(options: dict[str, Any]) -> TextOptions:
    known = {option.name for option in fields(TextOptions)}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"option {name!r} is unknown, the text engine has {', '.join(sorted(known))}")
        if type(value) is not int or value < 1:
            raise ValueError(f"option {name!r} is {value!r}, a whole number of at least 1 is expected")
    return TextOptions(**options)


def _limit_wired_memory(limit_bytes: int) -> None:
    if limit_bytes > 0 and mx.metal.is_available():
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(limit_bytes, recommended))
