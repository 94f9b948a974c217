"""What answers are made by, in one word: OpenAI's `system_fingerprint`, the same for all answers of this gateway."""

import hashlib
import platform
from importlib.metadata import version

# Another version of one of these may answer the same request with the same seed differently.
_LIBRARIES = ("mlx", "mlx-lm", "mlx-vlm")


def _fingerprint() -> str:
    parts = [platform.platform(), *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return "fp_" + hashlib.sha256(" ".join(parts).encode()).hexdigest()[:10]


SYSTEM_FINGERPRINT = _fingerprint()
