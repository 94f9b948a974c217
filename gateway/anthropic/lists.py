"""GET /v1/models in Anthropic's form, for requests with its header `anthropic-version`; and its rows of the endpoint
table."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.failure import invalid
from gateway.anthropic.dialect import ANTHROPIC
from gateway.core.names import Listed
from gateway.core.query import DIGITS, Query, query_of
from gateway.http.endpoints import NAMES_A_MODEL, Endpoint, Guard
from gateway.http.errors import Json
from gateway.http.inference import AppState
from gateway.http.models import listed, listed_as

_VERSION = "anthropic-version"
_LAST_SECOND = 253_402_300_799  # of the year 9999


class ModelInfo(BaseModel):
    """Anthropic's model; `alias_of` and `state` are this project's."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None
    max_tokens: int | None
    capabilities: None
    deprecated_at: None
    line: None
    alias_of: str | None
    state: str


class PageQuery(Query):
    """The parameters of the list. A page may stand behind one model or before another."""

    limit: Annotated[int, Field(ge=1, le=1000), DIGITS] = Field(20, description="How many models a page has at most.")
    after_id: str | None = Field(None, description="The model behind which the page begins.")
    before_id: str | None = Field(None, description="The model before which the page ends; not with after_id.")


class ModelPage(BaseModel):
    """A part of the list."""

    model_config = ConfigDict(strict=True, extra="forbid")

    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


async def list_models(request: Request[AppState]) -> Response:
    """A page of the models of this machine and their aliases. Raises FailureError naming the parameter."""
    models = await listed(request)
    page, has_more = page_of(models, query_of(PageQuery, request.query_params))
    ids = [model.name for model in page]
    data = [entry(model) for model in page]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return Json({"data": data, "has_more": has_more, "first_id": first, "last_id": last})


async def get_model(request: Request[AppState]) -> Response:
    """One model of this machine. Raises FailureError `model_not_found`."""
    return Json(entry(await listed_as(request, request.path_params["model_id"])))


def page_of(models: Sequence[Listed], query: PageQuery) -> tuple[Sequence[Listed], bool]:
    """What `limit` and either `after_id` or `before_id` choose, and whether there is more in that direction. Raises
    FailureError."""
    limit, after, before = query.limit, query.after_id, query.before_id
    if after is not None and before is not None:
        raise invalid("give either after_id or before_id", "before_id")
    if before is not None:
        end = _place(models, before, "before_id")
        return models[max(0, end - limit) : end], end > limit
    start = 0 if after is None else _place(models, after, "after_id") + 1
    return models[start : start + limit], len(models) > start + limit


def entry(listed: Listed) -> dict[str, object]:
    """The fields of ModelInfo. A model without files has the epoch as its time, as Anthropic's page on it says."""
    model = listed.model
    context = model.context_length or None
    created = min(max(0, int(model.created)), _LAST_SECOND)  # a file may have any time
    return {
        "type": "model",
        "id": listed.name,
        "display_name": listed.name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": context,
        "max_tokens": context,
        "capabilities": None,
        "deprecated_at": None,
        "line": None,
        "alias_of": model.model_id if listed.is_alias else None,
        "state": model.state,
    }


def _place(models: Sequence[Listed], name: str, field: str) -> int:
    for place, model in enumerate(models):
        if model.name == name:
            return place
    raise invalid(f"{field}: the list has no model {name!r:.200}", field)


LISTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        header=_VERSION,
        handler=list_models,
        guard=Guard.KEY,
        dialect=ANTHROPIC,
        query=PageQuery,
        answer=ModelPage,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model_id:path}",
        header=_VERSION,
        handler=get_model,
        guard=Guard.KEY,
        dialect=ANTHROPIC,
        answer=ModelInfo,
        failures=NAMES_A_MODEL,
    ),
)
