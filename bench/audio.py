"""Transcription through the whole path beside mlx-audio called directly: `python -m bench.audio [--rounds N]`.

A random Whisper of Whisper's own vocabulary, and a flac file of two minutes. A client uploads the file over a kept
connection; mlx-audio's `generate` hears the same file in a process of its own. They take turns, draw the same random
numbers, and must say the same. Prints the median ratio of the turns, and that of the processor time of all processes;
writes bench/results/audio.json.
"""

import argparse
import contextlib
import multiprocessing
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from bench.calm import wait_until_calm
from bench.results import save
from bench.servers import Server, ours
from tests.tiny_audio import make_tiny_whisper, write_sound

_SECONDS = 120
_LANGUAGE = "en"
_END_SECONDS = 10.0


def run(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of both sides, and the ratios of their turns."""
    make_tiny_whisper(folder / "models" / "whisper", multilingual=True, context=64, width=64)
    file = write_sound(folder / "speech.flac", _SECONDS, rate=44_100)
    parent, child = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    direct = context.Process(target=_directly, args=(child, folder / "models" / "whisper", file), daemon=True)
    direct.start()
    child.close()
    try:
        with ours(folder / "models") as server, httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
            client.timeout = httpx.Timeout(300)
            client.post("/admin/models/load/whisper").raise_for_status()
            return _measured(server, client, file, parent, psutil.Process(direct.pid), rounds=rounds)
    finally:
        parent.close()
        direct.join(_END_SECONDS)
        direct.kill()


def _measured(
    server: Server, client: httpx.Client, file: Path, direct: Connection, process: psutil.Process, *, rounds: int
) -> dict[str, Any]:
    walls: dict[str, list[float]] = {"ours": [], "direct": []}
    cpus: dict[str, list[float]] = {"ours": [], "direct": []}
    texts = set()
    for number in range(rounds + 1):
        for side in ("ours", "direct") if number % 2 else ("direct", "ours"):
            wait_until_calm()
            before = _cpu(server, process)[side]
            began = time.perf_counter()
            if side == "ours":
                with file.open("rb") as opened:
                    form = {"model": "whisper", "language": _LANGUAGE}
                    answer = client.post("/v1/audio/transcriptions", data=form, files={"file": opened})
                texts.add(answer.raise_for_status().json()["text"])
            else:
                direct.send(None)
                texts.add(str(direct.recv()).strip())
            walls[side].append(time.perf_counter() - began)
            cpus[side].append(_cpu(server, process)[side] - before)
    assert len(texts) == 1, f"they say different things: {sorted(texts)}"
    # The first round warms up.
    return {
        "seconds": {side: median(values[1:]) for side, values in walls.items()},
        "ratio": median(_ratios(walls)),
        "ratio_range": [min(_ratios(walls)), max(_ratios(walls))],
        "cpu": {side: median(values[1:]) for side, values in cpus.items()},
        "cost": median(_ratios(cpus)),
    }


def _ratios(sides: dict[str, list[float]]) -> list[float]:
    return [mine / its for mine, its in zip(sides["ours"][1:], sides["direct"][1:], strict=True)]


def _cpu(server: Server, direct: psutil.Process) -> dict[str, float]:
    return {"ours": sum(server.cpu().values()), "direct": sum(direct.cpu_times()[:2])}


def _directly(connection: Connection, folder: Path, file: Path) -> None:
    """The process that calls mlx-audio: a text for each message."""
    import mlx.core as mx  # noqa: PLC0415 # this process alone computes
    from mlx_audio.stt import load  # noqa: PLC0415

    from broker.wire.work import Transcribe  # noqa: PLC0415
    from worker.audio.course import seed_of  # noqa: PLC0415
    from worker.audio.decoding import open_recording  # noqa: PLC0415

    asked = Transcribe(str(file), language=_LANGUAGE)
    seed = seed_of(asked, open_recording(str(file), "file", _SECONDS + 1).pieces())
    model: Any = load(folder)
    with contextlib.suppress(EOFError):  # the other side has closed
        while True:
            connection.recv()
            mx.random.seed(seed)
            connection.send(model.generate(str(file), language=_LANGUAGE).text)


def show(row: dict[str, Any]) -> None:
    low, high = row["ratio_range"]
    print(
        f"transcription of {_SECONDS} s: {row['seconds']['ours']:.2f} s, mlx-audio {row['seconds']['direct']:.2f} s, "
        f"ours / its {row['ratio']:.3f} ({low:.3f} to {high:.3f}); processor time {row['cost']:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.audio", description="Transcription beside mlx-audio.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that started processes end too
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        figures = run(Path(directory), options.rounds)
        show(figures)
        print(save("audio", {"whisper": figures}))
