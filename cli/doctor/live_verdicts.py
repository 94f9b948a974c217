"""Judges what the live checks have measured: figures in, lines of the report out. Pure."""

from collections.abc import Mapping, Sequence

from cli.doctor.facts import Finding, Rating
from cli.speed.streams import Level, quantile

_MIB = 1 << 20

# Seconds and parts from which on a figure is worth a word.
_SLOW_NOTICE_MS = 200.0
_SLOW_LIFELINE = 3.0
_SLOW_START = 60.0
_SLOW_RECOVERY = 30.0
_LONG_GAP = 2.0
_COLD_SECONDS = 1.0
_SEEN_PART = 0.9
_CLOCKS_AGREE = 1.0
_LEFT_WIRED = 256 * _MIB
_CLIENT_BUSY = 0.8

Figures = dict[str, float | str | None]


def exit_notices(milliseconds: Mapping[str, float | None]) -> Finding:
    """before, after: of a child that exits before and after it is watched; group: the whole group is dead."""
    told = {
        "exit before it is watched": milliseconds.get("before"),
        "exit while it is watched": milliseconds.get("after"),
        "kill of a group": milliseconds.get("group"),
    }
    found = "; ".join(f"{name}: {'no notice' if ms is None else f'{ms:.1f} ms'}" for name, ms in told.items())
    figures: Figures = {f"{name}_ms": ms for name, ms in milliseconds.items()}
    if any(ms is None for ms in told.values()):
        advice = "the broker would not notice that a worker has died: please report this"
        return Finding("exit notices", found, Rating.FAILED, advice, figures)
    slow = any(ms is not None and ms > _SLOW_NOTICE_MS for ms in told.values())
    advice = "this is slow: was the machine busy?" if slow else ""
    return Finding("exit notices", found, Rating.WARNING if slow else Rating.OK, advice, figures)


def footprint(sizes: Mapping[str, int]) -> Finding:
    """Bytes: asked, resident, footprint, active."""
    parts = (("RSS", "resident"), ("footprint", "footprint"), ("MLX", "active"))
    told = [f"{name} {sizes[key] / _MIB:.0f} MiB" for name, key in parts]
    found = f"of {sizes['asked'] / _MIB:.0f} MiB taken with MLX: {', '.join(told)}"
    figures: Figures = dict(sizes)
    if sizes["footprint"] < _SEEN_PART * sizes["asked"]:
        advice = "the footprint misses memory of the GPU, so that limits of memory do not work: please report this"
        return Finding("footprint", found, Rating.FAILED, advice, figures)
    return Finding("footprint", found, Rating.OK, "", figures)


def clocks(seconds: Mapping[str, float | None]) -> Finding:
    """As inside/clocks.py says them."""
    monotonic, loop = seconds["monotonic"] or 0.0, seconds["loop"] or 0.0
    running, since_boot = seconds.get("running"), seconds.get("since_boot")
    asleep = None if running is None or since_boot is None else since_boot - running
    slept = "unknown" if asleep is None else f"{max(asleep, 0.0):.0f} s"
    counts = "counts it" if loop - monotonic > _CLOCKS_AGREE else "does so too"
    found = f"asleep since boot: {slept}; the broker's clock leaves that out, the gateway's loop {counts}"
    if running is not None and abs(monotonic - running) > _CLOCKS_AGREE:
        found = f"asleep since boot: {slept}; the broker's clock counts it"
    figures: Figures = {"asleep": asleep, "loop_ahead": loop - monotonic}
    if running is not None and abs(monotonic - running) > _CLOCKS_AGREE:
        advice = (
            "the clock of broker and workers counts sleep, so that a wake may look like a death: please report this"
        )
        return Finding("clocks", found, Rating.FAILED, advice, figures)
    return Finding("clocks", found, Rating.OK, "", figures)


def company(differences: Mapping[str, float], *, metal: bool) -> Finding:
    """The largest difference of a row alone from the same row in a batch, by kind of weights."""
    found = ", ".join(f"{kind}: {'equal' if not off else f'differs by {off:.0e}'}" for kind, off in differences.items())
    figures: Figures = dict(differences)
    if not any(differences.values()):
        return Finding("alone and in a batch", found, Rating.OK, "", figures)
    if metal:
        advice = "expected on Metal: an answer may take another word when other requests run beside it"
        return Finding("alone and in a batch", found, Rating.FACT, advice, figures)
    advice = "a CPU should compute the same in any company: please report this with the version of MLX"
    return Finding("alone and in a batch", found, Rating.WARNING, advice, figures)


def service_start(seconds: float) -> Finding:
    """Until the gateway says that the broker answers."""
    return Finding("start of the service", f"{seconds:.2f} s", Rating.OK, "", {"seconds": seconds})


def worker_start(seconds: float, stages: Mapping[str, float], *, spare: bool) -> Finding:
    """stages: name -> seconds, as the status has them."""
    by_stage = ", ".join(f"{name} {part:.2f}" for name, part in stages.items())
    how = "from a warm spare" if spare else "without a spare"
    found = f"{seconds:.2f} s {how}" + (f" ({by_stage})" if by_stage else "")
    slow = seconds > _SLOW_START
    advice = "a load this slow is usually a slow disk or too little memory" if slow else ""
    figures: Figures = {"seconds": seconds, **{f"stage_{name}": part for name, part in stages.items()}}
    return Finding("start of a worker", found, Rating.WARNING if slow else Rating.OK, advice, figures)


def first_tokens(first: float, second: float) -> Finding:
    """TTFT of the first two requests of a process."""
    found = f"{first * 1000:.0f} ms, then {second * 1000:.0f} ms"
    cold = first - second > _COLD_SECONDS
    advice = "the first request waits for what the warm-up should have done: please report this" if cold else ""
    figures: Figures = {"first": first, "second": second}
    return Finding("first token", found, Rating.WARNING if cold else Rating.OK, advice, figures)


def decode(one: Level, many: Level) -> Finding:
    """Alone, and of several streams at once."""
    each = "" if many.per_stream is None else f", {many.per_stream:.0f} each"
    alone = one.per_stream or one.in_total
    found = f"{alone:.0f} tokens/s alone; {many.in_total:.0f} with {many.streams} streams{each}"
    figures: Figures = {
        "alone": alone,
        "in_total": many.in_total,
        "per_stream": many.per_stream,
        "client_cpu": many.client_cpu,
    }
    if many.client_cpu > _CLIENT_BUSY:
        advice = "doctor itself was the limit: the model is faster than it can read"
        return Finding("decode", found, Rating.FACT, advice, figures)
    if many.in_total < alone * 0.9:
        advice = f"{many.streams} streams together are slower than one: please report this with the chip"
        return Finding("decode", found, Rating.WARNING, advice, figures)
    return Finding("decode", found, Rating.OK, "", figures)


def prefill(speeds: Mapping[int, float]) -> Finding:
    """Prompt tokens -> tokens per second until the first token of the answer."""
    found = ", ".join(f"{speed:.0f} tokens/s at {tokens} tokens" for tokens, speed in speeds.items())
    return Finding("prefill", found, Rating.OK, "", {f"at_{tokens}": speed for tokens, speed in speeds.items()})


def recovery(name: str, *, framed: bool, until_error: float, until_answer: float) -> Finding:
    """framed: the stream that the kill broke ended with an error object. Seconds since the kill."""
    found = (
        f"its stream was told after {until_error * 1000:.0f} ms; the model answered again after {until_answer:.2f} s"
    )
    figures: Figures = {"until_error": until_error, "until_answer": until_answer}
    if not framed:
        advice = "the broken stream ended without an error: please report this"
        return Finding(name, found, Rating.FAILED, advice, figures)
    slow = until_answer > _SLOW_RECOVERY
    advice = "a restart this slow is usually a slow disk or too little memory" if slow else ""
    return Finding(name, found, Rating.WARNING if slow else Rating.OK, advice, figures)


def neighbour(alone: Sequence[float], beside: Sequence[float]) -> Finding:
    """Seconds between tokens of one model, alone and while another prefills."""
    found = f"alone: {_gaps(alone)}; beside a prefill: {_gaps(beside)}"
    longest = max(beside, default=0.0)
    figures: Figures = {
        "alone_median": quantile(alone, 0.5),
        "alone_longest": max(alone, default=None),
        "beside_median": quantile(beside, 0.5),
        "beside_longest": max(beside, default=None),
    }
    is_long = longest > _LONG_GAP or not beside
    advice = "a prompt of one model delays the other's tokens: try MLX_BROKER_PREFILL_IN_TURNS=true" if is_long else ""
    return Finding("gap between tokens", found, Rating.WARNING if advice else Rating.OK, advice, figures)


def _gaps(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    return f"median {(quantile(seconds, 0.5) or 0) * 1000:.1f} ms, longest {max(seconds) * 1000:.0f} ms"


def wired(bytes_at: Mapping[str, int]) -> Finding:
    """moments -> wired bytes of the machine, the first before anything was loaded and the last after all had gone."""
    found = ", ".join(f"{moment} {count / (1 << 30):.2f} GiB" for moment, count in bytes_at.items())
    values = list(bytes_at.values())
    left = values[-1] - values[0]
    figures: Figures = dict(bytes_at)
    if left > _LEFT_WIRED:
        advice = (
            f"{left / _MIB:.0f} MiB more are wired than before: run this again on an idle machine, and report it if "
            "it stays; only a restart of the Mac gives such memory back"
        )
        return Finding("wired memory", found, Rating.WARNING, advice, figures)
    return Finding("wired memory", found, Rating.OK, "", figures)


def lifeline(seconds: float | None, bound: float) -> Finding:
    """From a kill -9 of the broker until its worker has ended; None: it lived on for `bound` seconds."""
    if seconds is None:
        advice = "workers outlive their broker on this system: please report this"
        return Finding("lifeline", f"the worker ran on for {bound:g} s without its broker", Rating.FAILED, advice)
    slow = seconds > _SLOW_LIFELINE
    return Finding(
        "lifeline",
        f"the worker ended {seconds * 1000:.0f} ms after a kill -9 of its broker",
        Rating.WARNING if slow else Rating.OK,
        "this is slow: was the machine busy?" if slow else "",
        {"seconds": seconds},
    )
