"""The image files of a request: those that the client sent, and those that are fetched from the URLs it gives.

The worker checks what is in a file.
"""

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from broker.wire.failure import invalid
from gateway.core.content import Image
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.images.fetch import Fetcher, FetchRoom


class ImageLoader:
    """One for the whole gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fetcher: Fetcher | None = None

    async def load(self, images: Sequence[Image]) -> list[bytes]:
        """The files of `images`. All are fetched together, the first that fails ends the others. Raises FailureError;
        its field is `images[k]` for the k-th one."""
        limit = self._settings.max_images
        if len(images) > limit:
            raise invalid(f"{len(images)} images in one request, at most {limit} are served", f"images[{limit}]")
        if all(isinstance(image.source, bytes) for image in images):
            return [image.source for image in images if isinstance(image.source, bytes)]
        if self._fetcher is None:
            self._fetcher = await asyncio.to_thread(_make_fetcher, self._settings)
        fetcher = self._fetcher
        room = fetcher.room()
        try:
            async with asyncio.TaskGroup() as group:
                sources = [(f"images[{number}]", image.source) for number, image in enumerate(images)]
                files = [group.create_task(_file(fetcher, field, source, room)) for field, source in sources]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [file.result() for file in files]


def _make_fetcher(settings: Settings) -> "Fetcher":
    # In a thread: the import takes a tenth of a second, and streams go on.
    fetcher: Fetcher = import_module("gateway.images.fetch").Fetcher(settings)
    return fetcher


async def _file(fetcher: "Fetcher", field: str, source: bytes | str, room: "FetchRoom") -> bytes:
    if isinstance(source, bytes):
        return source
    from gateway.images.fetch import FetchError  # noqa: PLC0415 # there by now, see _make_fetcher

    try:
        return await fetcher.file(source, room)
    except FetchError as error:
        raise invalid(f"{field}: {error}", field) from None
