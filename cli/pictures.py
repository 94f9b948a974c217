"""Image files as data URLs, for the models that see."""

import base64
from pathlib import Path

from cli.errors import CliError, ExitCode

# What the workers decode, by the first bytes of a file.
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def data_url(path: str) -> str:
    """Raises CliError for a file that cannot be read, or that is no image of a known kind."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise CliError(f"--image {path} cannot be read: {error.strerror or error}", ExitCode.USAGE) from error
    kind = next((kind for start, kind in _KINDS if data.startswith(start)), None)
    if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
        raise CliError(f"--image {path} must be a PNG, JPEG, GIF or WebP file", ExitCode.USAGE)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
