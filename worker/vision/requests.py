"""The requests of a vision engine: before they are in the batch, and in it."""

from dataclasses import dataclass, field
from typing import Any

from broker.wire.work import Generate
from worker.begun import Begun
from worker.chat.writer import Form
from worker.generation.echo import Echo
from worker.generation.sampling import LogitsProcessor, Sampler
from worker.generation.sequence import Sequence
from worker.vision.model import Prompt, VisionModel
from worker.vision.pictures import Picture
from worker.vision.row_sampler import RowSampler


@dataclass(slots=True)
class Waiting:
    """A request that is not in the batch yet. prompt: once it is known; text: the rendered chat; images: the `pictures`
    that have been decoded; form: of the chat, None for a prompt that is none; pixels: of
    `pixels_wanted`; echo: how the answer begins; begun: in another process."""

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
    images: list[Any] = field(default_factory=list)

    @property
    def drawn(self) -> int:
        """Tokens of the prompt that are drawn, not prefilled."""
        return 0 if self.echo is None or self.begun is not None else self.echo.drawn

    @property
    def said(self) -> list[int]:
        """The tokens of its answer from another process."""
        return [] if self.begun is None else self.begun.ids

    def unheeded(self, model: VisionModel) -> list[str]:
        """Fields of the request that change nothing with this model."""
        return [] if model.takes_pixels or not self.pictures else list(self.pixels)

    @property
    def is_generic(self) -> bool:
        """Whether calls are to be read in the generic form."""
        return self.form is not None and self.form.is_generic


@dataclass(slots=True)
class Live:
    """prompt_tokens: those of its prompt, its images included; recited: how many of the next tokens are known, because
    another process has said them; has_read: whether its prompt has been read."""

    sequence: Sequence
    sampler: RowSampler | None
    prompt_tokens: int
    recited: int = 0
    has_read: bool = False
