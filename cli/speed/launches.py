"""How often a model's device may have waited for its process, which the process counts (docs/engines.md)."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cli.errors import CliError
from cli.gateway import Gateway, listed

_MOST_SECONDS = 3.0
_LOOK_SECONDS = 0.1


@dataclass(slots=True, frozen=True)
class Launches:
    """steps: of decode, launched behind another one; late: those of them for which the device may have waited."""

    steps: int
    late: int

    def since(self, before: "Launches") -> float | None:
        """The late ones' share of the steps since then; None without steps, or of another process."""
        steps, late = self.steps - before.steps, self.late - before.late
        return late / steps if steps > 0 and late >= 0 else None


def launches(
    gateway: Gateway, model: str, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Launches | None:
    """With all that has ended by now. None where the gateway does not say it, or not to this client."""
    began = now()
    while True:
        try:
            models = listed(gateway.get("/admin/models/status"), "models")
        except CliError:
            return None
        found = next((one for one in models if one.get("model_id") == model), None)
        if found is None or "decode_steps" not in found:
            return None
        waited = now() - began
        age = found.get("heartbeat_age_seconds")
        if (age is not None and age < waited) or waited > _MOST_SECONDS:
            return Launches(int(found["decode_steps"]), int(found.get("late_steps") or 0))
        sleep(_LOOK_SECONDS)
