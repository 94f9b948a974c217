"""Transcriptions, translations, speech and voices: handlers and their rows of the endpoint table."""

import time
from collections.abc import Sequence

from anyio import to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, Failure, FailureError
from gateway.core import ask
from gateway.core.audio import Transcript
from gateway.core.failure import IGNORED_HEADER, ErrorAnswer, ignored_header
from gateway.core.query import query_of
from gateway.http.body import read_body
from gateway.http.endpoints import USES_A_MODEL, Endpoint, Guard, Handler, Stream
from gateway.http.errors import Json
from gateway.http.form import Fields, UploadForm, values_of
from gateway.http.inference import AppState, finish, model_for
from gateway.http.receiving import UploadResponse
from gateway.http.streaming import AnswerStream
from gateway.http.uploads import Upload
from gateway.openai.audio.answers import (
    SpeechDelta,
    SpeechDone,
    TranscriptDelta,
    TranscriptDone,
    TranscriptionAnswer,
    VerboseAnswer,
    VoiceList,
)
from gateway.openai.audio.formats import TEXTS, as_json, as_verbose_json
from gateway.openai.audio.requests import (
    FILE,
    LISTS,
    UNHEEDED,
    SpeechRequest,
    TranscriptionRequest,
    TranslationRequest,
    VoicesQuery,
    check_form,
    heeded,
    parse_form,
    parse_speech,
    speech_field,
    speech_work,
    transcription_field,
    transcription_work,
)
from gateway.openai.audio.streams import MEDIA, SpeechBytes, SpeechEvents, TranscriptEvents
from gateway.openai.dialect import OPENAI

# Bytes of speech that wait for a client at most. Players read as they play, and models are faster than that.
_MOST_WAITING = 16 << 20

_FEW_SEGMENTS = 100  # take some milliseconds to write with their words; hours of speech take a second


async def transcriptions(request: Request[AppState]) -> Response:
    """What is said in an audio file, as a text with or without times, streamed or whole."""
    return _of_upload(request, TranscriptionRequest)


async def translations(request: Request[AppState]) -> Response:
    """The same in English."""
    return _of_upload(request, TranslationRequest)


def _of_upload(request: Request[AppState], form: type[TranslationRequest]) -> Response:
    def check(fields: Fields) -> None:
        kept, _ = heeded(fields)
        check_form(form, values_of(kept, LISTS))

    async def answer(fields: Fields, upload: Upload) -> Response:
        served = request.state["served"]
        served.uploaded, served.is_by_token = time.monotonic(), False
        kept, ignored = heeded(fields)
        wanted = parse_form(form, values_of(kept, LISTS), upload.size)
        return await _transcribed(request, wanted, upload, ignored)

    sent = UploadForm(request.headers.get("content-type", ""), FILE, UNHEEDED, check)
    return UploadResponse(request, sent, answer)


async def _transcribed(
    request: Request[AppState], wanted: TranslationRequest, upload: Upload, ignored: Sequence[str]
) -> Response:
    target = await model_for(request, wanted.model)
    unit = transcription_work(wanted, str(upload.path))
    if wanted.stream:
        settings = request.state["settings"]
        streamed = ask.transcribe_stream(target.model, unit, upload.digest, resume_limit=settings.resume_limit)
        call = await request.state["link"].call(streamed)
        return AnswerStream(call, TranscriptEvents(), settings.keepalive_seconds, transcription_field, ignored=ignored)
    whole = ask.transcribe_whole(target.model, unit, upload.digest)
    transcript = await finish(request, whole, transcription_field)
    named = ignored_header(transcription_field, ignored)
    headers = {IGNORED_HEADER: named} if named else None
    try:
        if len(transcript.segments) <= _FEW_SEGMENTS:
            return _written(transcript, wanted, headers)
        return await to_thread.run_sync(_written, transcript, wanted, headers)
    except ProtocolError as error:  # which may quote the answer, and is in no log
        raise FailureError(Failure(Code.INTERNAL_ERROR, f"output that cannot be read: {error}")) from None


def _written(transcript: Transcript, wanted: TranslationRequest, headers: dict[str, str] | None) -> Response:
    if (write := TEXTS.get(wanted.response_format)) is not None:
        return PlainTextResponse(write(transcript), headers=headers)
    is_verbose = wanted.response_format == "verbose_json"
    return Json(as_verbose_json(transcript, wanted) if is_verbose else as_json(transcript), headers=headers)


async def speech(request: Request[AppState]) -> Response:
    """A text, spoken. The first bytes come before the last sentence is spoken."""
    wanted = parse_speech(await read_body(request))
    target = await model_for(request, wanted.model)
    unit = speech_work(wanted)
    call = await request.state["link"].call(ask.speak(target.model, unit))
    call.most_waiting = _MOST_WAITING
    request.state["served"].is_by_token = False
    renderer = SpeechEvents() if wanted.stream_format == "sse" else SpeechBytes(unit.encoding)
    return AnswerStream(call, renderer, request.state["settings"].keepalive_seconds, speech_field)


async def voices(request: Request[AppState]) -> Response:
    """The voices of a model that speaks."""
    query = query_of(VoicesQuery, request.query_params)
    target = await model_for(request, query.model)
    names = (await finish(request, ask.voices(target.model), speech_field)).voices
    return Json({"voices": [{"id": name, "name": name} for name in names]})


_FAILURES = (*USES_A_MODEL, Code.INSUFFICIENT_STORAGE)
_TRANSCRIPT = Stream(
    media="text/event-stream",
    events=(TranscriptDelta, TranscriptDone, ErrorAnswer),
    about="With `stream`: an event for each piece, one with the whole text, an error object if it fails after its "
    "start, and `data: [DONE]` at the end. Comments keep a silent stream open.",
)
_SPEECH = Stream(
    media="text/event-stream",
    events=(SpeechDelta, SpeechDone, ErrorAnswer),
    about="With the stream_format `sse`: an event for each piece of the file, an error object if it fails after its "
    "start, and `data: [DONE]` at the end. Comments keep a silent stream open.",
)


def _upload_row(path: str, handler: Handler, body: type[BaseModel]) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=handler,
        guard=Guard.KEY,
        dialect=OPENAI,
        body=body,
        media="multipart/form-data",
        answer=TranscriptionAnswer,
        answers=(VerboseAnswer,),
        stream=_TRANSCRIPT,
        text=("text/plain",),
        failures=_FAILURES,
        is_inference=True,
    )


ENDPOINTS = (
    _upload_row("/v1/audio/transcriptions", transcriptions, TranscriptionRequest),
    _upload_row("/v1/audio/translations", translations, TranslationRequest),
    Endpoint(
        method="POST",
        path="/v1/audio/speech",
        handler=speech,
        guard=Guard.KEY,
        dialect=OPENAI,
        body=SpeechRequest,
        stream=_SPEECH,
        binary=tuple(MEDIA.values()),
        failures=USES_A_MODEL,
        is_inference=True,
    ),
    Endpoint(
        method="GET",
        path="/v1/audio/voices",
        handler=voices,
        guard=Guard.KEY,
        dialect=OPENAI,
        query=VoicesQuery,
        answer=VoiceList,
        failures=USES_A_MODEL,
        is_inference=True,
    ),
)
