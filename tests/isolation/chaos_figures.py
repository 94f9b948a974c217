"""What a chaos counts, and what must hold where models are killed and nothing else happens."""

import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# By which a process dies at once.
DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
# The codes that a client may get during the chaos; any other code is a bug.
KNOWN_CODES = {"worker_died", "model_unavailable", "rate_limit_exceeded", "insufficient_memory"}
# Where models are killed and nothing else happens: how many requests are answered, of those whose clients do not leave.
LEAST_WHOLE_PERCENT = 95.0
LIMIT = "code worker_died, the limit"
# Of a request that was being taken in when the signal came: as far as the broker can know, it is the cause.
BLAMED = "code worker_died, while it was taken in"


@dataclass
class Figures:
    """Counts of everything that happened. rss: MiB of broker and gateway after a quarter of the run and at its end."""

    started: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    operator_loads: int = 0
    resumes: int = 0
    slowest_seconds: float = 0.0
    rss_early: dict[str, float] = field(default_factory=dict)
    rss_late: dict[str, float] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        return self.ends["answered, streamed"] + self.ends["answered, whole"]

    @property
    def whole_percent(self) -> float:
        """Of the requests whose clients did not leave."""
        return 100 * self.answered / max(1, self.started - self.ends["client left"])

    @property
    def refused_percent(self) -> float:
        return 100 * self.ends["error, plain"] / max(1, self.started)

    def table(self) -> str:
        rows: list[tuple[str, object]] = [("requests", self.started), ("answered", self.answered)]
        rows += [("answered, % of those not left", round(self.whole_percent, 1))]
        rows += [("refused, % of requests", round(self.refused_percent, 1))]
        rows += [("answers that went on", self.resumes)]
        rows += [*sorted(self.ends.items()), *sorted(self.errors.items())]
        rows += [*sorted(self.attacks.items()), ("loads by the operator", self.operator_loads)]
        rows += [("slowest end, s", round(self.slowest_seconds, 2))]
        rows += [
            (f"{n} RSS, MiB, early / late", f"{self.rss_early[n]:.1f} / {self.rss_late[n]:.1f}") for n in self.rss_late
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)

    def count_error(self, body: dict[str, Any]) -> dict[str, Any]:
        """The error of this body. AssertionError if its code is none that a client may get."""
        error: dict[str, Any] = body["error"]
        assert error["code"] in KNOWN_CODES, body
        kind = f"code {error['code']}"
        if kind == "code worker_died":
            says = {"which may go on": LIMIT, "while it was taken in": BLAMED}
            kind = next((name for words, name in says.items() if words in error["message"]), kind)
        self.errors[kind] += 1
        return error


def check_kills(figures: Figures) -> None:
    """Answers went on, nearly all to their end, and the only error is that an answer may not go on more often; or that
    a request was being taken in when a signal came, one for each signal at most."""
    assert min(figures.attacks[f"attack {name}"] for name in ("kill", *(number.name for number in DEADLY))) > 0
    assert figures.resumes > 0
    assert figures.whole_percent >= LEAST_WHOLE_PERCENT, figures.table()
    assert set(figures.errors) <= {LIMIT, BLAMED}, figures.table()
    assert figures.errors[BLAMED] <= sum(figures.attacks[f"attack {number.name}"] for number in DEADLY)
