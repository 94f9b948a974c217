"""Image files to pixels: only the formats that the service promises, never more pixels than a request may bring.

Whatever is wrong with a file is a FailureError that names the part of the request. Knows no models.
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

from mlx_vlm.utils import load_image
from PIL import Image, UnidentifiedImageError

from broker.wire.failure import FailureError, invalid, one_line

# Other decoders of Pillow start programs, or are hardly ever looked at.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

# The field of EXIF that says how a camera was held: above 4, width and height change places.
_ORIENTATION, _LAST_UNTURNED = 0x0112, 4


@dataclass(slots=True, frozen=True)
class Picture:
    """A file whose head has been read. where: its place in the request; size: width and height it will have, at most
    those of the file."""

    image: Any
    where: str
    size: tuple[int, int]

    def read(self) -> Any:
        """The image, upright and in RGB, of `size` or, turned by its camera, the same the other way. Raises
        FailureError."""
        try:
            self.image.draft("RGB", self.size)  # JPEG can be decoded smaller, which is faster
            is_turned = self.image.getexif().get(_ORIENTATION, 1) > _LAST_UNTURNED
            image = load_image(self.image)
            size = self.size[::-1] if is_turned else self.size
            return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        except Exception as error:  # a decoder raises what it likes
            raise _broken(self.where, error) from error


def open_picture(data: bytes, where: str, most_pixels: int) -> Picture:
    """The picture in an image file, of which only the head is read; with more than `most_pixels` it will be scaled
    down. Raises FailureError."""
    try:
        with warnings.catch_warnings():
            # Far more pixels than any camera has: Pillow only warns up to twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # as above
        raise _broken(where, error) from error
    scale = min(1.0, math.sqrt(most_pixels / (image.width * image.height)))
    return Picture(image, where, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def check_pixels(pictures: list[Picture]) -> None:
    """Raises FailureError for more pixels than one request may bring: as many as Pillow takes for one image."""
    pixels = 0
    for picture in pictures:
        pixels += picture.image.width * picture.image.height
        if pixels > (most := Image.MAX_IMAGE_PIXELS or 0):
            message = f"{picture.where}: the images have more than {most} pixels together; scale them down"
            raise invalid(message, param=picture.where)


def _broken(where: str, error: Exception) -> FailureError:
    text = one_line(error, 200)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return invalid(f"{where} has too many pixels; scale it down: {text}", param=where)
    if isinstance(error, UnidentifiedImageError):
        text = "the formats are PNG, JPEG, WebP and GIF"
    return invalid(f"{where} is no image that can be decoded: {text}", param=where)
