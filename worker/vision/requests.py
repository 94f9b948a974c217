"""The requests of a vision engine: before they are in the batch, and in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from broker.wire.work import Generate
from worker.begun import Begun
from worker.chat.writer import Form
from worker.generation.echo import Echo, Recital, reciting
from worker.generation.sampling import LogitsProcessor, Sampler, is_greedy
from worker.generation.sequence import Sequence
from worker.sound.resampling import Samples
from worker.vision.model import Prompt, VisionModel
from worker.vision.pictures import Picture
from worker.vision.row_sampler import RowSampler
from worker.vision.sounds import Recording, check_seconds

# The second piece of a sound shows whether the first was all.
_PIECES_AT_ONCE = 2


@dataclass(slots=True)
class Waiting:
    """A request that is not in the batch yet. prompt: once it is known; text: the rendered chat; images, heard: the
    `pictures` and `sounds` that have been decoded; form: of the chat, None for a prompt that is none; pixels: of
    `pixels_wanted`; echo: how the answer begins; begun: in another process; pieces, parts: what is to come of the sound
    that is being decoded, and what there is of it."""

    request: Generate
    sampler: Sampler
    processors: list[LogitsProcessor]
    prompt: Prompt | None
    text: str
    pictures: list[Picture]
    form: Form | None
    pixels: dict[str, int]
    echo: Echo | None = None
    begun: Begun | None = None
    sounds: list[Recording] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    heard: list[Samples] = field(default_factory=list)
    pieces: Iterator[Samples] | None = None
    parts: list[Samples] = field(default_factory=list)

    def least_tokens(self, model: VisionModel) -> int:
        """A lower bound of the tokens of its files. Raises FailureError."""
        return model.picture_tokens(self.pictures, self.pixels) + len(self.sounds)

    @property
    def is_decoded(self) -> bool:
        """Whether all of its files are."""
        return len(self.images) == len(self.pictures) and len(self.heard) == len(self.sounds)

    def decode_next(self, model: VisionModel) -> None:
        """Decode one picture, or a piece of a sound. Raises FailureError."""
        if len(self.images) < len(self.pictures):
            self.images.append(self.pictures[len(self.images)].read())
        elif model.hearing is not None:
            sound = self.sounds[len(self.heard)]
            if self.pieces is None:
                self.pieces = sound.pieces(model.hearing.rate, model.hearing.longest)
            more = list(islice(self.pieces, _PIECES_AT_ONCE))
            self.parts += more
            samples = sum(part.size for part in (*self.heard, *self.parts))
            check_seconds(samples / model.hearing.rate, sound.where)
            if len(more) < _PIECES_AT_ONCE:
                self.heard.append(np.concatenate(self.parts))
                self.pieces, self.parts = None, []

    def read(self, model: VisionModel) -> Prompt:
        """Its prompt, once all files are decoded. Raises FailureError."""
        return self.prompt or model.read_chat(self.text, self.images, self.pixels, self.heard)

    @property
    def drawn(self) -> int:
        """Tokens of the prompt that are drawn, not prefilled."""
        return 0 if self.echo is None or self.begun is not None else self.echo.drawn

    @property
    def said(self) -> list[int]:
        """The tokens of its answer from another process."""
        return [] if self.begun is None else self.begun.ids

    def is_like(self, other: "Waiting") -> bool:
        """Whether both have the same prompt, with the same files, and have said the same behind it."""
        return (
            (self.text, self.pixels, self.said) == (other.text, other.pixels, other.said)
            and self.request.images == other.request.images
            and self.request.audios == other.request.audios
            and _are_alike(self.prompt, other.prompt)
        )

    def row(self, processors: list[LogitsProcessor], *, is_behind: bool) -> tuple[RowSampler | None, int]:
        """What draws its tokens, None where that is the likeliest one; and how many of them are known. is_behind:
        whether those that have been said are a part of the prompt."""
        drawn, draw = self.drawn, self.sampler
        if self.said and not is_behind:  # there they would change how the prompt is read
            drawn, draw = len(self.said), reciting(self.said, draw)
        if drawn:
            processors = [Recital(drawn, processors)]
        keeps_rows = self.request.logprobs is not None
        if processors or keeps_rows or not is_greedy(self.request):
            return RowSampler(processors, draw, keeps_rows=keeps_rows), drawn
        return None, drawn

    def unheeded(self, model: VisionModel) -> list[str]:
        """Fields of the request that change nothing with this model."""
        return [] if model.takes_pixels or not self.pictures else list(self.pixels)

    @property
    def is_generic(self) -> bool:
        """Whether calls are to be read in the generic form."""
        return self.form is not None and self.form.is_generic


@dataclass(slots=True)
class Live:
    """prompt_tokens: those that are computed for it, images included; recited: how many of the next tokens are known,
    because another process has said them; has_read: whether its prompt has been read."""

    sequence: Sequence
    sampler: RowSampler | None
    prompt_tokens: int
    recited: int = 0
    has_read: bool = False


@dataclass(slots=True, frozen=True)
class Reading:
    """The prompt that is being read, of the sequence with this uid. waiting: the request that it was made for; prompt:
    with what has been said behind it, where it `is_behind`."""

    uid: int
    waiting: Waiting
    prompt: Prompt
    tokens: list[int]
    is_behind: bool


def _are_alike(one: Prompt | None, other: Prompt | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.tokens == other.tokens and one.is_text and other.is_text
