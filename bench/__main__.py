"""All benchmarks one after the other: `python -m bench [--all] [PIECE ...]`; `make bench` and `make bench-all`.

Each piece is a process of its own with a time limit, and saves what it has measured at once. Then docs/benchmarks.md is
written, and a verdict on each goal is printed. An interruption ends the piece that runs, with its servers, and keeps
the figures of those before. The exit code is 1 if a piece failed; a missed goal is no failure.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

from bench import report
from bench.results import save
from tests.service import ROOT

# How long an interrupted piece may take to end its servers.
_END_SECONDS = 40.0


@dataclass(slots=True, frozen=True)
class Piece:
    """A module of this package. short: its arguments in `make bench`, whole: in `make bench-all`, None where it has no
    part in it; minutes: after which it has failed."""

    name: str
    short: str | None
    whole: str | None
    minutes: float


PIECES = (
    Piece("throughput", "--runs 3 --rounds 2 tiny", "--runs 3 --rounds 3", 30),
    Piece("recovery", "deaths_warm deaths_twice pauses_warm hangs", "", 30),
    Piece("recovery", "--repeats 4 smol", None, 5),
    Piece("request", "--pairs 5", "", 5),
    Piece("going_on", "--pairs 40 --tiny-pairs 60", "--pairs 60 --tiny-pairs 120", 5),
    Piece("disk_cache", "", "", 5),
    Piece("second_turn", "--repeats 3", "--repeats 5 --empty 3", 5),
    Piece("vision", "", "--rounds 9", 5),
    Piece("embeddings", "", "--rounds 9", 5),
    Piece("speech", "", "--rounds 9", 5),
    Piece("audio", None, "--rounds 9", 10),
    Piece("memory", "", "", 3),
    Piece("prefill", None, "", 10),
    Piece("dialects", None, "", 20),
    Piece("profile", None, "", 5),
    Piece("engine", None, "", 5),
    Piece("metrics", None, "", 10),
    Piece("page", None, "", 15),
)


def main(names: list[str], *, is_whole: bool) -> int:
    """The exit code."""
    began = time.monotonic()
    failed = []
    for piece in PIECES:
        arguments = piece.whole if is_whole or (names and piece.short is None) else piece.short
        if arguments is not None and (not names or piece.name in names):
            print(f"\n== {piece.name} {arguments}", flush=True)
            since = time.monotonic()
            if not _run([f"bench.{piece.name}", *arguments.split()], piece.minutes * 60):
                failed.append(piece.name)
            print(f"== {piece.name} took {time.monotonic() - since:.0f} s", flush=True)
    seconds = time.monotonic() - began
    print(f"\n== {seconds:.0f} s in all\n")
    if not (names or is_whole or failed):
        save("whole", {"seconds": seconds})
    report.main()
    if failed:
        print(f"\nfailed: {', '.join(failed)}; their figures are those of an earlier run, or missing")
    return bool(failed)


def _run(command: list[str], seconds: float) -> bool:
    """Whether the module ended well. Raises KeyboardInterrupt, when it has ended."""
    # In a group of its own: a Ctrl-C of the terminal reaches it once, from here.
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, process_group=0)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{command[0]} takes longer than {seconds:.0f} s", flush=True)
        return False
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt it, so that it ends its servers; kill what is left of them."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    names = sorted({piece.name for piece in PIECES})
    parser = argparse.ArgumentParser(prog="python -m bench", description="All benchmarks, and a verdict on each goal.")
    parser.add_argument("--all", action="store_true", help="the long ones, too")
    parser.add_argument("pieces", nargs="*", metavar="PIECE", choices=[[], *names], help=f"of {', '.join(names)}")
    options = parser.parse_args()
    for signal_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, _interrupted)
    try:
        sys.exit(main(options.pieces, is_whole=options.all))
    except KeyboardInterrupt:
        print("\ninterrupted; `python -m bench.report` writes what has been measured", flush=True)
        sys.exit(130)
