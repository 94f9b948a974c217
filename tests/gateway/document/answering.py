"""A link that answers everything at once, as rich as a broker can, or fails: the name of the model says how."""

import struct
from collections.abc import Callable
from typing import Any

from broker.wire.body import Body
from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import (
    CancelPull,
    Describe,
    Forget,
    InferenceRequest,
    Keep,
    Kill,
    Load,
    Logs,
    Models,
    Pin,
    Pull,
    Reload,
    ReloadSettings,
    Remove,
    Resolve,
    Status,
    Unload,
    Unpin,
    Watch,
)
from broker.wire.kinds import Task
from broker.wire.packing import unpack
from broker.wire.work import Embed, Generate, Rerank, Transcribe
from gateway.core.ask import Ask
from gateway.link.call import Call, T
from tests.gateway.http.test_gateway import STATUS
from tests.gateway.played_broker import ending, meant
from tests.gateway.running import MODEL
from tests.gateway.test_answers import BROKER, CATALOG, REREAD
from tests.gateway.test_second_link import ScriptedLink

Outputs = tuple[list[dict[str, Any]], dict[str, Any]]

_LIKELY = {"token": "A", "bytes": b"A", "logprob": -0.5}
_CALL = {"id": "call_1", "name": "f", "arguments": '{"a": 1}'}
_RICH: dict[str, Any] = {"reasoning": "hm", "logprobs": [{**_LIKELY, "top": [_LIKELY]}]}
SEGMENT: dict[str, Any] = {
    "id": 0,
    "seek": 0,
    "start": 0.0,
    "end": 1.0,
    "text": " One.",
    "tokens": [1, 2],
    "temperature": 0.0,
    "avg_logprob": -0.5,
    "compression_ratio": 1.0,
    "no_speech_prob": 0.1,
    "words": [{"word": " One.", "start": 0.0, "end": 1.0, "probability": 0.5}],
}
_CHANGE = {"model_id": "org/rich", "state": "loading", "reason": None, "stage": "weights", "fraction": 0.5, "at": 1.5}
_STEP = {"model_id": "a", "reason": None, "fraction": 0.5, "done_bytes": 5, "total_bytes": 10}
_LINES = {"lines": [[1.5, 7, "a line"]]}
_LISTED = ("org/rich", "mlx-community/SmolLM2-135M-Instruct")  # the second is that of examples
# By the name of the model, and only to messages of these kinds.
_USES: tuple[type[Body], ...] = (InferenceRequest, Load, Keep, Pull, Pin)
_RUNS: tuple[type[Body], ...] = (Unload, Kill, Reload, Unpin, CancelPull)
_FAILURES: dict[str, tuple[tuple[type[Body], ...], Failure]] = {
    "org/gone": ((*_USES, *_RUNS, Remove), Failure(Code.MODEL_NOT_FOUND, "there is no such model", "model")),
    "org/broken": (_USES, Failure(Code.LOAD_FAILED, "its weights are torn")),
    "org/busy": (_USES, Failure(Code.RATE_LIMIT_EXCEEDED, "the queue is full", retry_after=1.5)),
    "org/dead": (_USES, Failure(Code.WORKER_DIED, "the process of the model has died")),
    "org/idle": (_RUNS, Failure(Code.NOT_LOADED, "Model not loaded: org/idle")),
    "org/slow": ((Unload,), Failure(Code.DRAIN_TIMEOUT, "requests are still running")),
    "org/used": ((Remove,), Failure(Code.MODEL_IN_USE, "the model is loaded")),
}
# Fails after its first output.
CUT = "org/cut"
NAMES = ("org/rich", "org/rich", "org/plain", CUT, *_FAILURES)


class AnsweringLink(ScriptedLink):
    """See above."""

    def __init__(self) -> None:
        super().__init__([ending()])

    async def call(self, *asks: Ask[T]) -> Call[T]:
        call: Call[T] = Call(len(asks), lambda _call, _failure: None)
        for index, ask in enumerate(asks):
            model = ask.model or ""
            if isinstance(ask.body, Resolve):
                call.end(index, ask.final(meant(ask.body, None)))
                continue
            partials, final = outputs_of(ask.body, model)
            failure = failure_of(ask.body, model)
            if failure is None and partials and (model == CUT or isinstance(ask.body, Watch | Logs)):
                failure = Failure(Code.WORKER_DIED, "the process of the model has died")
            if model not in _FAILURES:
                for partial in partials:
                    if (output := ask.partial(partial)) is not None:
                        call.put(index, output)
            call.end(index, failure or ask.final(final))
        call.flush()
        return call


def failure_of(body: Body, model: str) -> Failure | None:
    """How a broker refuses this."""
    kinds, failure = _FAILURES.get(model, ((), None))
    return failure if isinstance(body, kinds) else None


def outputs_of(body: Body, model: str) -> Outputs:
    """What a broker says to this: partial outputs, and the final one."""
    if isinstance(body, InferenceRequest):
        return _inference(body, is_rich=model == "org/rich")
    if isinstance(body, Pull):
        return [_STEP] if body.stream else [], {"model_id": model, "size_bytes": 2**20}
    if isinstance(body, Logs):
        return [_LINES] if body.follow else [], _LINES
    return _ADMINISTRATION[type(body)](model)


def _inference(request: InferenceRequest, *, is_rich: bool) -> Outputs:
    match request.task:
        case Task.COUNT:
            return [], {"prompt_tokens": 5}
        case Task.EMBED:
            count = len(unpack(Embed, request.payload).inputs)
            return [], {"vectors": struct.pack("<2f", 0.25, 0.5) * count, "size": 2, "prompt_tokens": 3}
        case Task.RERANK:
            count = len(unpack(Rerank, request.payload).documents)
            return [], {"scores": struct.pack(f"<{count}f", *[0.5] * count), "prompt_tokens": 3}
        case Task.TRANSCRIBE:
            heard = {"text": " One.", "segments": [SEGMENT]}
            end = {"language": "en", "duration": 1.5, "completion_tokens": 2}
            if unpack(Transcribe, request.payload).stream:
                return [{**heard, "seconds": 1.0}], {"text": "", "segments": [], **end}
            return [], {**heard, **end}
        case Task.SPEAK:
            return [{"audio": b"RIFF", "sample_rate": 24000}], {"audio": b"", "seconds": 1.5}
        case Task.VOICES:
            return [], {"voices": ["anna", "bert"]}
    unit = unpack(Generate, request.payload)
    said: dict[str, Any] = {}
    if is_rich:
        said = {**_RICH, "tool_calls": [_CALL]} if unit.messages else {"logprobs": _RICH["logprobs"]}
    reason = "tool_calls" if "tool_calls" in said else "length"
    if unit.stream:
        return [{"text": "One", **said}, {"text": ""}], ending("", reason)
    return [], {**ending("A", reason), **said}


def _named(model: str) -> Outputs:
    return [], {"model_id": model}


def _loaded(model: str) -> Outputs:
    return [], {"model_id": model, "model_type": "text-gen", "size_bytes": 2**29, "pinned": True}


_ADMINISTRATION: dict[type[Body], Callable[[str], Outputs]] = {
    Status: lambda _model: ([], STATUS),
    Describe: lambda _model: ([], BROKER),
    Models: lambda _model: (
        [],
        {**CATALOG, "models": [{**MODEL, "model_id": name, "pinned": True} for name in _LISTED]},
    ),
    ReloadSettings: lambda _model: ([], REREAD),
    Load: _loaded,
    Keep: _loaded,
    Reload: _loaded,
    Remove: _named,
    Forget: _named,
    Unload: _named,
    Pin: _named,
    Unpin: _named,
    CancelPull: _named,
    Kill: lambda model: ([], {"model_id": model, "pid": 7}),
    Watch: lambda _model: ([_CHANGE], {}),
}
