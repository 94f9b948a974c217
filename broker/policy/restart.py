"""The restart policy, in numbers (rule 9): when a model whose process died may be started again.

Pure: no clock. `deaths` counts consecutive deaths; the pool resets it after STABLE_SECONDS of serving.
"""

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
STABLE_SECONDS = 10.0
MAX_DEATHS = 5

# How long a request is refused that ended a process while it was taken in.
REFUSED_SECONDS = 600.0


def delay_seconds(deaths: int) -> float:
    """Seconds to wait before the next start: none after the first death, then 0.5, 1, 2 ... 30."""
    if deaths <= 1:
        return 0.0
    return min(FIRST_DELAY_SECONDS * 2.0 ** (deaths - 2), MAX_DELAY_SECONDS)


def gives_up(deaths: int) -> bool:
    """Whether the model is `failed` now, until an administrator loads it."""
    return deaths >= MAX_DEATHS
