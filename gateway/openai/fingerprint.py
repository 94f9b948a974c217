"""OpenAI's `system_fingerprint`: one word for the software that makes answers, the same for all of this gateway."""

import hashlib
import platform
from importlib.metadata import version

# With another version of one of these, the same request and seed may give another answer.
_LIBRARIES = ("mlx", "mlx-lm", "mlx-vlm")


def _fingerprint() -> str:
    parts = [platform.platform(), *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return "fp_" + hashlib.sha256(" ".join(parts).encode()).hexdigest()[:10]


SYSTEM_FINGERPRINT = _fingerprint()
