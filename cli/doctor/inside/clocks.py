"""`python -m cli.doctor.inside.clocks`: the clocks by which processes judge each other beside those that count sleep,
as one line of JSON, in seconds.
"""

import json
import sys
import time

import uvloop


def clocks() -> dict[str, float | None]:
    """monotonic: of the broker. running: the system's clock that stands still in sleep. since_boot: its clock that does
    not, None if it has none. loop: of the gateway's event loop."""
    loop = uvloop.new_event_loop()
    try:
        return {
            "monotonic": time.monotonic(),
            "running": _clock("CLOCK_UPTIME_RAW") if sys.platform == "darwin" else _clock("CLOCK_MONOTONIC"),
            "since_boot": _clock("CLOCK_MONOTONIC") if sys.platform == "darwin" else _clock("CLOCK_BOOTTIME"),
            "loop": loop.time(),
        }
    finally:
        loop.close()


def _clock(name: str) -> float | None:
    number = getattr(time, name, None)
    return None if number is None else time.clock_gettime(number)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(clocks()) + "\n")
