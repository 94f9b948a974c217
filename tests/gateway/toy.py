"""A complete small dialect beside OpenAI's: newline-delimited JSON, names of its own, another form of errors.

POST /toy/tell {"llm", "turns": [{"who", "says", "pictures"}], "live", "shape", "limit"}
whole: {"said", "why", "spent"}
live:  {"more": text} ... {"over": why}, a silent stream gets {}, a failed one {"oops": ...}
errors: {"oops": code, "what": message, "at": field}, all overload as 529
"""

import base64
import re
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import Code, Failure
from broker.wire.work import Generate
from gateway.core import ask
from gateway.core.answer import Delta, End
from gateway.core.content import Image, image_in
from gateway.core.dialect import Json as JsonMap
from gateway.core.failure import STATUS
from gateway.core.sampling import Defaults
from gateway.core.validation import RequestBody, object_of, validated
from gateway.http.body import read_body
from gateway.http.endpoints import Endpoint, Guard, Subtree
from gateway.http.errors import Json
from gateway.http.inference import AppState, answer, finish

_WORDS = {"json_schema": "shape", "max_tokens": "limit", "model": "llm"}


class Turn(RequestBody):
    """pictures: base64."""

    who: str
    says: str
    pictures: list[str] = Field(default_factory=list)


class TellBody(RequestBody):
    llm: str | None = None
    turns: list[Turn]
    live: bool = False
    shape: dict[str, Any] | None = None
    limit: int | None = None


class TellAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    said: str
    why: str
    spent: int


def oops(failure: Failure) -> JsonMap:
    return {"oops": failure.code, "what": failure.message, "at": failure.param}


class ToyError(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    oops: Code
    what: str
    at: str | None


class ToyDialect:
    name = "Toy"
    error_answer = ToyError

    def status(self, failure: Failure) -> int:
        return 529 if failure.code is Code.RATE_LIMIT_EXCEEDED else STATUS[failure.code]

    def error(self, failure: Failure) -> JsonMap:
        return oops(failure)


TOY = ToyDialect()


class ToyLines:
    content_type = "application/x-ndjson"
    is_complete = False

    def render(self, items: Sequence[tuple[int, Delta | End]]) -> bytes:
        lines: list[JsonMap] = []
        for _index, output in items:
            text = output.rest.text if isinstance(output, End) else output.text
            if text:
                lines.append({"more": text})
            if isinstance(output, End):
                lines.append({"over": output.finish_reason})
                self.is_complete = True
        return b"".join(orjson.dumps(line) + b"\n" for line in lines)

    def keepalive(self) -> bytes:
        return b"{}\n"

    def error(self, failure: Failure) -> bytes:
        return orjson.dumps(oops(failure)) + b"\n"


class ToyText:
    ignored = ("turns.mood",)

    def __init__(self, body: TellBody) -> None:
        self.model = body.llm
        self.stream = body.live
        self.resume: bool | None = None
        self.images: list[Image] = [image_in(picture) for turn in body.turns for picture in turn.pictures]
        self._body = body

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        messages = [
            {
                "role": turn.who,
                "content": [{"type": "text", "text": turn.says}, *({"type": "image"} for _ in turn.pictures)],
            }
            for turn in self._body.turns
        ]
        limit = self._body.limit or defaults.max_tokens
        schema = self._body.shape
        return [
            Generate(messages=messages, images=images, max_tokens=limit, json_schema=schema, stream=self._body.live)
        ]

    def whole(self, _model: str, ends: Sequence[End]) -> JsonMap:
        [end] = ends
        return {"said": end.rest.text, "why": end.finish_reason, "spent": end.prompt_tokens + end.completion_tokens}

    def renderer(self, _model: str, _units: int) -> ToyLines:
        return ToyLines()

    def field_name(self, field: str) -> str:
        if part := re.fullmatch(r"messages\[(\d+)\]\.parts\[(\d+)\]", field):
            turn, number = int(part[1]), int(part[2])
            return f"turns.{turn}.says" if number == 0 else f"turns.{turn}.pictures.{number - 1}"
        if image := re.fullmatch(r"images\[(\d+)\]", field):
            places = [
                f"turns.{t}.pictures.{p}" for t, turn in enumerate(self._body.turns) for p in range(len(turn.pictures))
            ]
            return places[int(image[1])]
        return _WORDS.get(field, field.replace("messages", "turns"))


async def tell(request: Request[AppState]) -> Response:
    body = validated(TellBody, object_of(await read_body(request)))
    return await answer(request, ToyText(body))


async def names(request: Request[AppState]) -> Response:
    report = await finish(request, ask.models())
    return Json({"names": [model.model_id for model in report.models]})


def picture(data: bytes) -> str:
    return base64.b64encode(data).decode()


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/toy/tell",
        handler=tell,
        guard=Guard.KEY,
        dialect=TOY,
        body=TellBody,
        answer=TellAnswer,
        is_inference=True,
    ),
    Endpoint(method="GET", path="/toy/names", handler=names, guard=Guard.OPEN, dialect=TOY),
    # In a place that is another dialect's, for clients with this header.
    Endpoint(method="GET", path="/v1/models", header="x-toy", handler=names, guard=Guard.KEY, dialect=TOY),
    Endpoint(method="POST", path="/v1/tell", handler=tell, guard=Guard.KEY, dialect=TOY, body=TellBody),
)
SUBTREE = Subtree(prefix="/toy", guard=Guard.OPEN, dialect=TOY)
