"""Image files to pixels: only the documented formats, and at most as many pixels as a request may have.

Every defect of a file is a FailureError that names the part of the request. Knows no models.
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

from mlx_vlm.utils import load_image
from PIL import Image, UnidentifiedImageError

from broker.wire.failure import FailureError, invalid, one_line
from broker.wire.work import Generate

# Pillow's other decoders start programs, or are hardly reviewed.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

# The EXIF field for the orientation of the camera: above 4, width and height are swapped.
_ORIENTATION, _LAST_UNTURNED = 0x0112, 4


@dataclass(slots=True, frozen=True)
class Picture:
    """An image file whose header has been read. where: its field in the request; size: width and height after scaling
    down."""

    image: Any
    where: str
    size: tuple[int, int]

    def read(self) -> Any:
        """The image, upright and in RGB, with `size`, or with width and height swapped if the camera was turned. Raises
        FailureError."""
        try:
            self.image.draft("RGB", self.size)  # JPEG can be decoded smaller, which is faster
            is_turned = self.image.getexif().get(_ORIENTATION, 1) > _LAST_UNTURNED
            image = load_image(self.image)
            size = self.size[::-1] if is_turned else self.size
            return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        except Exception as error:  # a decoder may raise anything
            raise _broken(self.where, error) from error


def open_picture(data: bytes, where: str, most_pixels: int) -> Picture:
    """The picture of an image file; reads only its header. An image of more than `most_pixels` will be scaled down.
    Raises FailureError."""
    try:
        with warnings.catch_warnings():
            # Up to twice its limit, Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # as above
        raise _broken(where, error) from error
    scale = min(1.0, math.sqrt(most_pixels / (image.width * image.height)))
    return Picture(image, where, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))


def pixels_wanted(request: Generate, most_pixels: int) -> dict[str, int]:
    """The sizes that a request wants its images scaled to, as processors take them. most_pixels: of one image. Raises
    FailureError."""
    sizes = {"min_pixels": request.min_pixels, "max_pixels": request.max_pixels}
    wanted = {name: size for name, size in sizes.items() if size is not None}
    for name, size in wanted.items():
        if size < 1:
            raise invalid(f"{name} must be at least 1, not {size}", param=name)
    least, most = wanted.get("min_pixels", 0), min(wanted.get("max_pixels", most_pixels), most_pixels)
    if least > most:
        raise invalid(f"min_pixels must be at most {most}, not {least}: no image has more", param="min_pixels")
    if least * len(request.images) > (limit := Image.MAX_IMAGE_PIXELS or 0):
        raise invalid(f"min_pixels: the images would have more than {limit} pixels together", param="min_pixels")
    return wanted


def check_pixels(pictures: list[Picture]) -> None:
    """Raises FailureError for more pixels than one request may have: Pillow's limit for one image."""
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
    return invalid(f"{where} is not an image that can be decoded: {text}", param=where)
