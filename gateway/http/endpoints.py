"""The endpoint table: every route is one row, and the router is made of the rows.

A row says everything that other code needs to know about a route: who may call it, its dialect, the models
of its parameters, its body and its answer. No code looks at a path to find out. The document of the API is made of the
rows, too (gateway/document/).
"""

import enum
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.wire.failure import Code
from gateway.core.dialect import Dialect
from gateway.core.query import Query


class Guard(enum.IntEnum):
    """Who may call, from anyone to few. CHANGE: for what changes models beside administration."""

    OPEN = 0
    KEY = 1
    CHANGE = 2
    ADMIN = 3


Handler = Callable[[Request[Any]], Awaitable[Response]]


# How a request can fail: one that asks the broker for anything, one that names a model, and one that uses it.
BROKER = (Code.BROKER_UNAVAILABLE,)
NAMES_A_MODEL = (*BROKER, Code.MODEL_NOT_FOUND)
USES_A_MODEL = (
    *NAMES_A_MODEL,
    Code.LOAD_FAILED,
    Code.RATE_LIMIT_EXCEEDED,
    Code.CANCELLED,
    Code.INSUFFICIENT_MEMORY,
    Code.MODEL_UNAVAILABLE,
    Code.WORKER_DIED,
)

# Of files, for clients that have them.
UNCHANGED = ((304, None),)


@dataclass(slots=True, frozen=True, kw_only=True)
class Stream:
    """An answer that comes piece by piece. media: server-sent events or lines of JSON; events: models of the JSON in
    them; about: when there is a stream, and how it ends; is_endless: it ends with the client."""

    media: str
    events: tuple[type[BaseModel], ...]
    about: str
    is_endless: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class Endpoint:
    """One method of one path. query: the model of its parameters. body, answer: models of their JSON, None where there
    is none. media: of the body. answers: other forms of the answer. stream: an answer that is one, instead of `answer`
    or where the request asks for it. text, binary: the media types of an answer that is neither. failures: how a
    request can end, apart from what follows from the guard, the body and the parameters. others: statuses whose answers
    have a form of their own, None: no body. is_inference: it asks a model, and counts in the metrics of requests.
    opened_by: the setting that opens it to everybody, if there is one.

    Rows can share a path. header: the one that only this dialect's clients send; accept: a media type that the client's
    Accept header must name, `*/*` does not. Such a row comes before the one without.
    """

    method: str
    path: str
    handler: Handler
    guard: Guard
    dialect: Dialect
    query: type[Query] | None = None
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    answers: tuple[type[BaseModel], ...] = ()
    stream: Stream | None = None
    media: str = "application/json"
    text: tuple[str, ...] = ()
    binary: tuple[str, ...] = ()
    failures: tuple[Code, ...] = BROKER
    others: tuple[tuple[int, type[BaseModel] | None], ...] = ()
    header: str | None = None
    is_inference: bool = False
    accept: str | None = None
    opened_by: str | None = None

    @property
    def is_general(self) -> bool:
        """Whether it takes every request to its path."""
        return self.header is None and self.accept is None

    def under(self, settings: object) -> "Endpoint":
        """As it is with these settings."""
        is_open = self.opened_by is not None and getattr(settings, self.opened_by)
        return replace(self, guard=Guard.OPEN) if is_open else self


@dataclass(slots=True, frozen=True, kw_only=True)
class Subtree:
    """All paths below `prefix`. guard, dialect: of the answer that a path or method does not exist there."""

    prefix: str
    guard: Guard
    dialect: Dialect


Guards = Mapping[Guard, Sequence[Middleware]]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]


def router_of(
    endpoints: Sequence[Endpoint], subtrees: Sequence[Subtree], guards: Guards, lifespan: Lifespan
) -> ASGIApp:
    """The app of all routes, which raises what handlers raise. The subtrees are tried in their order; the last one has
    the prefix "" and takes the rest."""
    *inner, outer = subtrees
    assert outer.prefix == "", "the last subtree must have all other paths"
    routes: list[BaseRoute] = []
    paths = list(dict.fromkeys(endpoint.path for endpoint in endpoints))
    left = sorted(endpoints, key=lambda endpoint: (paths.index(endpoint.path), endpoint.is_general))
    for subtree in inner:
        inside = [endpoint for endpoint in left if endpoint.path.startswith(f"{subtree.prefix}/")]
        left = [endpoint for endpoint in left if endpoint not in inside]
        routes.append(
            _SubtreeMount(subtree, [_EndpointRoute(endpoint, subtree, guards) for endpoint in inside], guards)
        )
    routes += [_EndpointRoute(endpoint, outer, guards) for endpoint in left]
    # A redirect has no error object, and sends clients behind a proxy to where the gateway believes to be.
    router = Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan)
    return _ExactPaths(endpoints, guards, router)


class _Handling:
    """A handler as an app. Starlette's own looks for exceptions too, which are answered further out."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive, send))
        await response(scope, receive, send)


class _ExactPaths:
    """The rows that have their path to themselves, and no parameter in it. One look finds them; the router, which tries
    all patterns on the way, takes longer than the guard and the record of a request. others: what has all other paths.
    """

    def __init__(self, endpoints: Sequence[Endpoint], guards: Guards, others: ASGIApp) -> None:
        self._others = others
        self._found: dict[tuple[str | None, str | None], tuple[ASGIApp, Scope]] = {}
        shared = Counter(endpoint.path for endpoint in endpoints)
        for row in endpoints:
            if shared[row.path] == 1 and row.is_general and "{" not in row.path:
                app = _guarded(_Handling(row.handler), guards[row.guard])
                self._found[row.method, row.path] = app, {"row": row, "dialect": row.dialect, "path_params": {}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._found.get((scope.get("method"), scope.get("path")))  # a lifespan has neither
        if found is None:
            await self._others(scope, receive, send)
        else:
            app, child = found
            scope.update(child)
            await app(scope, receive, send)


class _EndpointRoute(Route):
    """A route that carries its row and its dialect. The guard in front of "wrong method" is that of the endpoint or of
    the subtree, whichever is more open."""

    def __init__(self, endpoint: Endpoint, subtree: Subtree, guards: Guards) -> None:
        path = endpoint.path.removeprefix(subtree.prefix)
        handling = _Handling(endpoint.handler)
        super().__init__(path, handling, methods=[endpoint.method], middleware=guards[endpoint.guard])
        self.path_regex = _to_the_end(self.path_regex)
        self._row = {"row": endpoint, "dialect": endpoint.dialect}
        self._header = endpoint.header and endpoint.header.encode()
        self._accept = endpoint.accept and endpoint.accept.encode()
        self._refuse = _guarded(self._not_allowed, guards[min(subtree.guard, endpoint.guard)])

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is not Match.NONE and not (self._has_header(scope) and self._is_accepted(scope)):
            match = Match.NONE
        return match, child if match is Match.NONE else {**child, **self._row}

    def _has_header(self, scope: Scope) -> bool:
        return not self._header or any(name == self._header for name, _value in scope["headers"])

    def _is_accepted(self, scope: Scope) -> bool:
        return not self._accept or any(
            name == b"accept" and self._accept in value.lower() for name, value in scope["headers"]
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = self.methods is None or scope["method"] in self.methods
        await (self.app if allowed else self._refuse)(scope, receive, send)

    async def _not_allowed(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise HTTPException(405, headers={"Allow": ", ".join(self.methods or ())})


class _SubtreeMount(Mount):
    """A subtree that carries its dialect."""

    def __init__(self, subtree: Subtree, routes: Sequence[BaseRoute], guards: Guards) -> None:
        nothing = _guarded(_not_found, guards[subtree.guard])
        super().__init__(subtree.prefix, app=Router(routes, redirect_slashes=False, default=nothing))
        self.path_regex = _to_the_end(self.path_regex)
        self._dialect = subtree.dialect

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, child if match is Match.NONE else {**child, "dialect": self._dialect}


def _to_the_end(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Starlette's patterns have no line ends within a path, and one behind it is nothing to them."""
    return re.compile(pattern.pattern.removesuffix("$") + r"\Z", re.DOTALL)


def _guarded(app: ASGIApp, guard: Sequence[Middleware]) -> ASGIApp:
    for cls, args, kwargs in reversed(guard):
        app = cls(app, *args, **kwargs)
    return app


async def _not_found(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise HTTPException(404)
