"""Text generation about images with mlx-vlm: all live requests decode in one batch.

mlx-vlm's BatchGenerator owns the batch. This file gives it one prompt at a time, first come, first served. Each step
decodes a token for all sequences; before that it decodes one image file, encodes the images of one prompt, or prefills
a piece of a prompt. After such work, decode has about as long for itself.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import BatchGenerator

from broker.wire.body import to_map
from broker.wire.failure import Code, Failure, FailureError, named_line
from broker.wire.outputs import ERROR, PARTIAL, Output
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.begun import cannot_go_on
from worker.chat.writer import TOOL_FORMS
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.generation.choice import Part, choose
from worker.generation.generation import Generation
from worker.generation.pace import Pace
from worker.generation.sampling import LogitsProcessor
from worker.generation.scores import score_bytes
from worker.generation.sequence import Sequence
from worker.loading.device import computes_in_one_thread
from worker.loading.vocabulary import vocabulary_read_once
from worker.memory.limits import limits_of
from worker.memory.room import Admitted, MemoryRoom, Size
from worker.options import one_of, read_options, template, whole_number
from worker.process.device_errors import is_device_error
from worker.process.intake import taking_in
from worker.vision.arrivals import read_request
from worker.vision.batch import join, make_batch, reads_as_it_says
from worker.vision.copies import begun_like
from worker.vision.deepstack import prefill_by
from worker.vision.lean_decode import decode_leanly
from worker.vision.memory_plan import encoding_bytes, plan_of
from worker.vision.model import Prompt, VisionModel
from worker.vision.requests import Live, Reading, Waiting

log = logging.getLogger("worker")

# For sequences whose log-probabilities are not read.
_NO_ROW = mx.zeros(0)


@dataclass(slots=True, frozen=True)
class VisionOptions:
    """completion_batch_size: sequences that decode together; prefill_step_size: prompt tokens per step, at most;
    context_length: tokens, 0 for the model's own; max_image_pixels: a larger image is scaled down; chat_template: its
    text or file; tool_form: as TextOptions has it."""

    completion_batch_size: int = whole_number(32)
    prefill_step_size: int = whole_number(2048)
    context_length: int = whole_number(0, least=0)
    max_image_pixels: int = whole_number(2048 * 2048)
    chat_template: str | None = template()
    tool_form: str | None = one_of(*TOOL_FORMS)


class VisionEngine:
    """Engine for `vision` models. `model`: with its processor.

    Mutable state: the requests that wait, in their order, the batch, the sequences in it by uid and id, and the prompt
    that is being read; the errors of requests that were to begin with it; the room, in which the first that waits may
    wait for memory; how much prefill may take now; what has been counted.
    """

    def __init__(self, assign: Assign, report: Report) -> None:
        self._options = read_options(VisionOptions, assign.options, "vision")
        limits = limits_of(assign)  # before anything is loaded
        with vocabulary_read_once():
            self.model = VisionModel(Path(assign.path), report, self._options.chat_template, self._options.tool_form)
            prefill_by(self.model.language_model, self._prefill, self._share)
            decode_leanly(self.model.language_model)
            scores = score_bytes(getattr(self.model.language_model, "args", None), is_metal=mx.metal.is_available())
            self._pace = Pace(self._options.prefill_step_size, scores)
            tokenizer = self.model.tokenizer
            context = self._options.context_length or self.model.context_length
            self.generation = Generation(tokenizer, self.model.vocabulary, context)
        plan = plan_of(
            assign,
            self.model.language_model,
            most_rows=self._options.completion_batch_size,
            step_tokens=self._options.prefill_step_size,
        )
        self.room: MemoryRoom[Prompt] = MemoryRoom(plan, limits)
        self._waiting: dict[bytes, Waiting] = {}
        self._live: dict[int, Live] = {}
        self._uids: dict[bytes, int] = {}
        self._reading: Reading | None = None
        self._failed: list[Output] = []
        self._generated = self._prompt_tokens = 0
        probe = (self._generator, self._see_text, tokenizer.eos_token_ids)
        self._batch = make_batch(*probe)
        self._reads_as_it_says = reads_as_it_says(*probe)
        self._warm_up()

    def _see_text(self, tokens: list[int]) -> dict[str, Any]:
        return self.model.see(self.model.prompt_of(tokens))

    def _generator(self) -> Any:
        stops = getattr(self.model.processor, "tokenizer", self.model.processor).stopping_criteria
        return BatchGenerator(
            self.model.language_model,
            self.model.processor,
            # Each generator adds them to the processor's.
            stop_tokens=[token for token in sorted(self.model.tokenizer.eos_token_ids) if not stops(token)],
            completion_batch_size=self._options.completion_batch_size,
            # The prompts of one prefill batch must be of one kind, all with images or all without.
            prefill_batch_size=1,
            prefill_step_size=self._options.prefill_step_size,
            compute_logprobs=False,
            # Sequences are also removed between steps: one stream for everything needs no synchronisation.
            stream=mx.default_stream(mx.default_device()),
        )

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.model.weights_bytes, self.generation.context, computes_in_one_thread())

    @property
    def has_work(self) -> bool:
        return bool(self._live) or (bool(self._waiting) and (self.room.waiting == 0 or self.room.has_news))

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        waiting, sequences = len(self._waiting), list(self._live.values())
        decoding = sum(live.has_read for live in sequences)
        prefilling = len(sequences) - decoding
        # One that may have got its memory waits for its turn to prefill: with that it begins.
        for_room = self.room.waiting if self.room.is_blocked else 0
        return EngineStats(
            waiting + len(sequences),
            waiting,
            prefilling,
            decoding,
            waiting_for_room=for_room,
            generation_tokens=self._generated,
            prompt_tokens=self._prompt_tokens,
        )

    def add(self, request_id: bytes, payload: bytes) -> None:
        waiting = self._read(payload)
        # A prompt that is too long is refused before any file is decoded.
        prompt = waiting.prompt
        known = waiting.least_tokens(self.model) if prompt is None else len(prompt.tokens)
        self.generation.max_tokens(waiting.request, known + waiting.drawn)
        self._waiting[request_id] = waiting

    def count(self, payload: bytes) -> Iterator[int | None]:
        """As Count of worker/engine.py, file by file."""
        waiting = self._read(payload, counts=True)
        waiting.least_tokens(self.model)
        self.generation.check_max_tokens(waiting.request)
        while not waiting.is_decoded:
            yield None
            waiting.decode_next(self.model)
        prompt = waiting.read(self.model)
        answer = self.generation.answer(waiting.request, prompt.tokens, is_generic=waiting.is_generic)
        self.generation.followers(waiting.request, *answer)
        yield len(prompt.tokens) + waiting.drawn

    def _read(self, payload: bytes, *, counts: bool = False) -> Waiting:
        return read_request(payload, self.model, self.generation, self._options.max_image_pixels, counts=counts)

    def step(self) -> list[Output]:
        outputs = self._prepare()
        self._pace.bound(self.room.piece)
        stopped: list[int] = []
        _, responses = self._batch.next()
        outputs += self._failed
        self._failed = []
        if responses:
            self._pace.decoded(monotonic())
        self._generated += len(responses)
        for response in responses:
            uid, reason = response.uid, response.finish_reason
            live = self._live[uid]
            if not live.has_read:
                live.has_read = True
                self.room.has_read(live.sequence.request_id)
                self._prompt_tokens += live.prompt_tokens
            row = live.sampler.take_row() if live.sampler is not None else None
            if live.recited:
                live.recited -= 1
                continue
            output = live.sequence.advance(response.token, _NO_ROW if row is None else row, reason)
            if output is None:
                continue
            outputs.append(output)
            if output.kind != PARTIAL:
                del self._live[uid], self._uids[output.request_id]
                self.room.leave(output.request_id)
                # A sequence with a reason has left the batch already. One that ends by a stop string or a failure
                # has not.
                if reason is None:
                    stopped.append(uid)
        for uid in stopped:
            self._batch.remove(uid)
        return outputs

    def hold_prefill(self, is_held: bool) -> None:
        """As in Engine. Images are prepared for the model when prefill goes on."""
        self._pace.is_held = is_held

    def cancel(self, request_id: bytes) -> None:
        self._waiting.pop(request_id, None)
        self.room.leave(request_id)
        uid = self._uids.pop(request_id, None)
        if uid is not None:
            if self._reading is not None and self._reading.uid == uid:
                self._reading = None
            del self._live[uid]
            self._batch.remove(uid)

    def _warm_up(self) -> None:
        """Two short texts, so that no client waits for the kernels that Metal compiles on their first use."""
        prompt = self.model.read_text(Generate(prompt=[0, 0]))
        for _ in range(2):
            self._batch.insert([prompt.tokens], [2], prompt_kwargs=[self.model.see(prompt)])
        left = 2
        while left:
            left -= sum(response.finish_reason is not None for response in self._batch.next()[1])
        mx.clear_cache()
        mx.reset_peak_memory()

    def _prepare(self) -> list[Output]:
        """One piece of work for the request that has waited longest; its error, if it fails."""
        if not self._waiting or self._batch.has_pending_prompts:
            return []
        if len(self._live) >= self._options.completion_batch_size:
            return []
        began, beside = monotonic(), self._is_decoding
        if self._pace.is_held or not self._pace.turn(began, beside=beside).has_piece:
            return []
        request_id, waiting = next(iter(self._waiting.items()))
        failure = next((refused.failure for refused in self.room.refused()), None)
        failure = failure or self._failing(request_id, self._advance, waiting)
        if beside:
            self._pace.interrupted(began, monotonic() - began)
        return self._settle(request_id, failure)

    def _settle(self, request_id: bytes, failure: Failure | None) -> list[Output]:
        """It no longer waits, if it has begun or failed."""
        if failure is not None or request_id in self._uids:
            del self._waiting[request_id]
        if failure is None:
            return []
        self.room.leave(request_id)
        return [Output(request_id, ERROR, to_map(failure))]

    @property
    def _is_decoding(self) -> bool:
        return any(live.has_read for live in self._live.values())

    def _prefill(self, left: int, context: int, piece: Callable[[int], int]) -> int:
        """A piece of the one prompt that prefills, where it is prefill's turn; its tokens."""
        began, beside = monotonic(), self._is_decoding
        choice = choose(self._pace, [Part(1, left, context)], [], room=0, now=began, beside=beside)
        if choice is None:
            return 0
        tokens = piece(choice.tokens)
        seconds = monotonic() - began
        self._pace.prefilled(tokens, context, began, seconds, beside=beside, in_whole=choice.in_whole)
        return tokens

    def _share(self, first: Any, logits: mx.array) -> None:
        """A prompt has been read: requests that wait with the same one begin with copies of its caches. As Read."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        for request_id, waiting in list(self._waiting.items()):
            if self.room.waiting or len(self._live) >= self._options.completion_batch_size:
                return  # there is no room even for those that came first
            if waiting.is_like(reading.waiting):
                failure = self._failing(request_id, self._join, waiting, reading, first, logits)
                self._failed += self._settle(request_id, failure)

    def _failing(self, request_id: bytes, work: Callable[..., None], *arguments: Any) -> Failure | None:
        """Why the request fails at this work, if it does."""
        try:
            with taking_in(request_id):
                work(request_id, *arguments)
        except FailureError as error:
            return error.failure
        except Exception as error:
            if is_device_error(error):
                raise
            log.exception("a request fails while its prompt is made", extra={"about": request_id})
            return Failure(Code.INTERNAL_ERROR, f"the prompt cannot be made: {named_line(error)}")
        return None

    def _advance(self, request_id: bytes, waiting: Waiting) -> None:
        """Another piece of the work before it is in the batch. Raises FailureError."""
        if not waiting.is_decoded:
            waiting.decode_next(self.model)
            return
        if not self.room.waiting:
            prompt = waiting.read(self.model)
            self._enter(request_id, waiting, prompt, encoding_bytes(prompt, self.model.hearing))
        if (admitted := self.room.admit()) is not None:
            self._insert(admitted, waiting)

    def _enter(self, request_id: bytes, waiting: Waiting, prompt: Prompt, beside: int) -> None:
        """It waits for room. beside: bytes that it takes until its prompt has been read. Raises FailureError."""
        request = waiting.request
        tokens, said = len(prompt.tokens) + waiting.drawn, len(waiting.said)
        answer = self.generation.max_tokens(request, tokens) - said
        if said and answer < 1:
            raise cannot_go_on("its tokens are all that it may have")
        size = Size(
            tokens + said,
            max(0 if waiting.drawn else 1, answer),
            is_stated=not request.max_tokens_is_default,
            param="prompt" if request.messages is None else "messages",
            beside=beside,
        )
        self.room.enter(request_id, size, prompt)

    def _insert(self, admitted: Admitted[Prompt], waiting: Waiting) -> None:
        request_id, prompt, max_tokens, _ = admitted
        sequence, processors = self._begin(admitted, waiting)
        seen = self.model.see(prompt)
        # The generator asks only the language model. It reads this setting when it begins the prompt, the only one.
        in_pieces = self.model.may_be_read_in_pieces(prompt, seen)
        may_be_behind = in_pieces and self._reads_as_it_says
        behind = self.model.see_behind(prompt, waiting.said) if waiting.said and may_be_behind else None
        whole, seen = behind or (prompt, seen)
        sampler, drawn = waiting.row(processors, is_behind=behind is not None)
        self._batch.prefill_step_size = self._options.prefill_step_size if in_pieces else None
        (uid,) = self._batch.insert(
            [whole.tokens],
            [max_tokens + drawn],
            prompt_kwargs=[seen],
            logits_processors=[None if sampler is None else [sampler]],
        )
        self._uids[request_id] = uid
        self._live[uid] = Live(sequence, sampler, len(whole.tokens), drawn - waiting.drawn)
        self._reading = Reading(uid, waiting, prompt, whole.tokens, behind is not None)

    def _join(self, request_id: bytes, waiting: Waiting, reading: Reading, first: Any, logits: mx.array) -> None:
        """Begin with a prompt that another request has read, if there is room now. Raises FailureError."""
        self._enter(request_id, waiting, reading.prompt, beside=0)
        admitted = self.room.admit()
        if admitted is None:
            self.room.leave(request_id)
            return
        sequence, processors = self._begin(admitted, waiting)
        sampler, drawn = waiting.row(processors, is_behind=reading.is_behind)
        uid = join(self._batch, begun_like(first, logits, reading.tokens, sampler, admitted.answer + drawn))
        self._uids[request_id] = uid
        self._live[uid] = Live(sequence, sampler, 0, drawn - waiting.drawn)

    def _begin(self, admitted: Admitted[Prompt], waiting: Waiting) -> tuple[Sequence, list[LogitsProcessor]]:
        """The answer to a request, and the processors of its logits. Raises FailureError."""
        request_id, prompt, _, _ = admitted
        request, form = waiting.request, waiting.form
        answer, constraint = self.generation.answer(request, prompt.tokens, is_generic=waiting.is_generic)
        processors = [*waiting.processors, *self.generation.followers(request, answer, constraint, waiting.said)]
        sequence = self.generation.sequence(
            request_id,
            request,
            answer,
            constraint,
            prompt_tokens=len(prompt.tokens) + waiting.drawn,
            cached_tokens=0,
            echo=waiting.echo,
            ignored=[*(() if form is None else form.ignored), *waiting.unheeded(self.model)],
            begun=waiting.begun,
        )
        return sequence, processors
