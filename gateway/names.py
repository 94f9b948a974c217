"""Which of some names a client means. The broker asks the file system (broker/models/places.py); a gateway, which has
none, goes by the habit of its platform: macOS finds a model by other spellings too.
"""

import sys
from collections.abc import Iterable

from broker.wire.model_names import folded

PLATFORM = sys.platform


def meant(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is this model."""
    names = list(known)
    if name in names or PLATFORM != "darwin":
        return name if name in names else None
    return next((other for other in names if folded(other) == folded(name)), None)
