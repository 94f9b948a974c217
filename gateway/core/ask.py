"""What can be asked of a link: one message to the broker and how its outputs are read. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from broker.wire.body import Body, stated
from broker.wire.failure import invalid
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
from broker.wire.packing import pack, pack_map
from broker.wire.work import Embed, Generate, Rerank, Speak, Transcribe, Voices
from gateway.core.administration import (
    BrokerReport,
    CatalogReport,
    ForgetReport,
    KillReport,
    LoadReport,
    LogReport,
    ModelsReport,
    PullProgress,
    PullReport,
    R,
    RereadReport,
    ResolveReport,
    StateChange,
    StatusReport,
    UnloadReport,
    reader,
)
from gateway.core.answer import (
    Counted,
    Delta,
    End,
    Scores,
    Vectors,
    counted_of,
    delta_of,
    end_of,
    no_partial,
    scores_of,
    vectors_of,
)
from gateway.core.audio import HeardPiece, Spoken, SpokenPiece, Transcript, VoiceNames, transcript_of
from gateway.core.progress import AnswerProgress, GoesOn, HeardProgress

Out_co = TypeVar("Out_co", covariant=True)


@dataclass(slots=True, frozen=True)
class Ask(Generic[Out_co]):
    """One unit of work, asked for once. model: the one it is for, None where it is for none or all.

    partial, final: read the body of an output, partial gives None if there is nothing to read in it; both raise
    ProtocolError. progress: how far its answer has come, where it may go on in another process.
    """

    model: str | None
    body: Body
    partial: Callable[[dict[str, Any]], Out_co | None]
    final: Callable[[dict[str, Any]], Out_co]
    progress: GoesOn | None = None


def generate_stream(
    model: str, unit: Generate, *, keep_alive: float | None = None, resume_limit: int = 0, key: str = ""
) -> Ask[Delta | End]:
    """An answer piece by piece. keep_alive: as in `keep`, None: not stated. resume_limit: how often it may go on in
    another process; key: of its own, that of no other, for the ids of its calls. Raises FailureError."""
    body = _generation(model, unit, keep_alive, resume_limit, key)
    if not resume_limit:
        return Ask(model, body, delta_of, end_of)
    progress = AnswerProgress(streams=True)
    return Ask(model, body, progress.partial, end_of, progress)


def generate_whole(
    model: str, unit: Generate, *, keep_alive: float | None = None, resume_limit: int = 0, key: str = ""
) -> Ask[End]:
    """An answer in one piece: the rest of its End. The rest as for a stream. Raises FailureError."""
    body = _generation(model, unit, keep_alive, resume_limit, key)
    if not resume_limit:
        return Ask(model, body, no_partial, end_of)
    progress = AnswerProgress(streams=False)
    return Ask(model, body, lambda partial: _nothing(progress.partial(partial)), progress.final, progress)


def _nothing(_delta: Delta | None) -> None:
    return None


def count(model: str, unit: Generate) -> Ask[Counted]:
    """The tokens of a prompt, without an answer. Raises FailureError."""
    request = replace(_generation(model, replace(unit, stream=False), None, 0, ""), task=Task.COUNT)
    return Ask(model, request, no_partial, counted_of)


def _generation(model: str, unit: Generate, keep_alive: float | None, resume_limit: int, key: str) -> InferenceRequest:
    values = stated(unit)
    # The choices of one request differ in their seed alone, and are taken in alike.
    alike = values.copy()
    alike.pop("seed", None)
    alike.pop("stream", None)
    if resume_limit:
        values["tells_tokens"] = True
        if unit.tools:
            values["key"] = key
    try:
        origin = _origin(pack_map(alike))
        return InferenceRequest(model, pack_map(values), Task.GENERATE, origin, keep_alive, resume_limit=resume_limit)
    except ValueError:  # a dialect may add a level to what could just be read
        raise invalid("the body is nested too deeply") from None


def _origin(taken_in: bytes) -> bytes:
    return blake2b(taken_in, digest_size=16).digest()


def embed(model: str, unit: Embed, *, keep_alive: float | None = None) -> Ask[Vectors]:
    """The vectors of texts. keep_alive: as in `keep`, None: not stated."""
    count = len(unit.inputs)
    payload = pack(unit)
    body = InferenceRequest(model, payload, Task.EMBED, _origin(payload), keep_alive)
    return Ask(model, body, no_partial, lambda final: vectors_of(final, count))


def rerank(model: str, unit: Rerank) -> Ask[Scores]:
    """The scores of documents."""
    count = len(unit.documents)
    payload = pack(unit)
    body = InferenceRequest(model, payload, Task.RERANK, _origin(payload))
    return Ask(model, body, no_partial, lambda final: scores_of(final, count))


def transcribe_stream(
    model: str, unit: Transcribe, digest: bytes, *, resume_limit: int = 0
) -> Ask[HeardPiece | Transcript]:
    """What is said in a file, piece by piece. digest: of the file's bytes; resume_limit: as in `generate_stream`."""
    progress = HeardProgress()
    body = replace(_transcription(model, unit, digest), resume_limit=resume_limit)
    return Ask(model, body, progress.partial, transcript_of, progress)


def transcribe_whole(model: str, unit: Transcribe, digest: bytes) -> Ask[Transcript]:
    """The same in one piece."""
    return Ask(model, _transcription(model, unit, digest), no_partial, transcript_of)


def _transcription(model: str, unit: Transcribe, digest: bytes) -> InferenceRequest:
    alike = pack(replace(unit, path="", stream=False))  # the same bytes come with another path each time
    return InferenceRequest(model, pack(unit), Task.TRANSCRIBE, _origin(alike + digest))


def speak(model: str, unit: Speak) -> Ask[SpokenPiece | Spoken]:
    """A text, spoken piece by piece."""
    origin = _origin(pack(replace(unit, seed=None, stream=False)))
    return Ask(model, InferenceRequest(model, pack(unit), Task.SPEAK, origin), reader(SpokenPiece), reader(Spoken))


def voices(model: str) -> Ask[VoiceNames]:
    """The voices of a model."""
    return Ask(model, InferenceRequest(model, pack(Voices()), Task.VOICES), no_partial, reader(VoiceNames))


def load(model: str) -> Ask[LoadReport]:
    """Load and pin a model."""
    return _once(model, Load(model), LoadReport)


def keep(model: str, seconds: float | None) -> Ask[LoadReport]:
    """Load a model without a pin, and let it stay for so long after its last use. None: as the broker is set; negative:
    as long as there is room; 0: it leaves as soon as it is idle, and is not loaded for this."""
    return _once(model, Keep(model, seconds), LoadReport)


def pull(model: str) -> Ask[PullProgress | PullReport]:
    """Download a model, with its progress."""
    return Ask(model, Pull(model, stream=True), reader(PullProgress), reader(PullReport))


def pull_whole(model: str) -> Ask[PullReport]:
    """Download a model; the answer comes when it is there."""
    return _once(model, Pull(model), PullReport)


def cancel_pull(model: str) -> Ask[UnloadReport]:
    """End the download of a model."""
    return _once(model, CancelPull(model), UnloadReport)


def remove(model: str) -> Ask[UnloadReport]:
    """Delete the files of a model that is not in use."""
    return _once(model, Remove(model), UnloadReport)


def forget(model: str | None) -> Ask[ForgetReport]:
    """Remove the cached prompts of a model, of all models for None."""
    return _once(model, Forget(model), ForgetReport)


def unload(model: str, timeout: float | None, *, force: bool) -> Ask[UnloadReport]:
    """Drain a model, for `timeout` seconds if not None, and end its process."""
    return _once(model, Unload(model, timeout=timeout, force=force), UnloadReport)


def kill(model: str, *, resume: bool) -> Ask[KillReport]:
    """SIGKILL the process of a model. resume: whether its requests may go on in the next one."""
    return _once(model, Kill(model, resume), KillReport)


def reload(model: str, *, allow_gap: bool) -> Ask[LoadReport]:
    """Another process takes the place of the one that serves a model. allow_gap: whether that one may end first."""
    return _once(model, Reload(model, allow_gap), LoadReport)


def reload_settings(*, apply: bool) -> Ask[RereadReport]:
    """The broker reads its settings again, and applies them or only checks them."""
    return _once(None, ReloadSettings(apply), RereadReport)


def pin(model: str) -> Ask[UnloadReport]:
    """Pin a model, which is loaded then."""
    return _once(model, Pin(model), UnloadReport)


def unpin(model: str) -> Ask[UnloadReport]:
    """Remove the pin of a model."""
    return _once(model, Unpin(model), UnloadReport)


def status() -> Ask[StatusReport]:
    """What runs now."""
    return _once(None, Status(), StatusReport)


def models() -> Ask[ModelsReport]:
    """Every model of this machine."""
    return _once(None, Models(), ModelsReport)


def catalog() -> Ask[CatalogReport]:
    """Every model of this machine, and what looks like one and cannot be used."""
    return _once(None, Models(with_broken=True), CatalogReport)


def describe() -> Ask[BrokerReport]:
    """What the broker is."""
    return _once(None, Describe(), BrokerReport)


def resolve(name: str) -> Ask[ResolveReport]:
    """Which model a client means by this name."""
    return _once(name, Resolve(name), ResolveReport)


def watch(model: str | None) -> Ask[StateChange]:
    """Every change of state of a model, or of all; it has no end of its own."""
    read = reader(StateChange)
    return Ask(model, Watch(model), read, read)


def logs(model: str, tail: int, *, follow: bool) -> Ask[LogReport]:
    """The last lines that processes of a model have printed; with `follow` those that come later too, and no end."""
    read = reader(LogReport)
    return Ask(model, Logs(model, tail, follow), read, read)


def _once(model: str | None, body: Body, report: type[R]) -> Ask[R]:
    return Ask(model, body, no_partial, reader(report))
