"""The interfaces of a dialect: what a family of HTTP APIs adds to the neutral core. Pure.

A dialect is a folder: it reads bodies into a `TextRequest` or into asks (ask.py), writes answers, streams and errors in
its own form, and lists its endpoints (gateway/http/endpoints.py). Nothing else knows its names. docs/extending.md says
how to add one.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel

from broker.wire.failure import Failure
from broker.wire.work import Generate
from gateway.core.answer import Delta, End
from gateway.core.content import Image
from gateway.core.sampling import Defaults

Out_contra = TypeVar("Out_contra", contravariant=True)

# What becomes the JSON of a response.
Json = Mapping[str, object]


class Renderer(Protocol[Out_contra]):
    """One streamed answer: outputs -> the bytes of its stream. It may remember what it has written."""

    @property
    def content_type(self) -> str:
        """Of the response; asked for when it begins, after the first `render`."""

    @property
    def is_complete(self) -> bool:
        """Whether `render` has written the end of the stream."""

    def render(self, items: Sequence[tuple[int, Out_contra]]) -> bytes:
        """All that waits, (number of the unit of work, output) in order, as frames. Called for every token."""

    def keepalive(self) -> bytes:
        """A frame that means nothing, sent when the stream has been silent; empty where it has no such frame."""

    def error(self, failure: Failure) -> bytes | None:
        """The frames that end a stream which fails after its start. None: it has none, and the connection is cut."""


class Dialect(Protocol):
    """What a route carries: how its errors look."""

    @property
    def name(self) -> str:
        """Of this family of APIs, for readers."""

    @property
    def error_answer(self) -> type[BaseModel]:
        """The model of what `error` makes."""

    def status(self, failure: Failure) -> int:
        """The HTTP status of a request that ends with this."""

    def error(self, failure: Failure) -> Json:
        """The body of that response."""


class TextRequest(Protocol):
    """One request for text, as a dialect has read it: what is wanted, and how it is answered."""

    @property
    def model(self) -> str | None:
        """The model that it names, None for the default one."""

    @property
    def stream(self) -> bool | None:
        """Whether the answer comes piece by piece."""

    @property
    def resume(self) -> bool | None:
        """Whether the answer may go on in another process; it may unless this is False."""

    @property
    def images(self) -> Sequence[Image]:
        """Of all its messages, in their order; to the wire the k-th one is `images[k]`."""

    def units(self, images: list[bytes], defaults: Defaults) -> list[Generate]:
        """The work, one unit for each answer. images: the files of `images`."""

    def whole(self, model: str, ends: Sequence[End]) -> Json:
        """The answer to all units in one piece."""

    def renderer(self, model: str, units: int) -> Renderer[Delta | End]:
        """For the answer to so many units as a stream."""

    @property
    def ignored(self) -> Sequence[str]:
        """Fields of it that the dialect leaves out, by their names on the wire or in the dialect."""

    def field_name(self, field: str) -> str:
        """The client's name of a field of the wire, such as `json_schema`, `messages[0].parts[1]`, `images[2]`."""
