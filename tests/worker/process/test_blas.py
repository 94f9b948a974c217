"""Another BLAS in a real worker: the same text with it, and without one that is not there."""

import ctypes.util
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from tests.worker.engine_runs import answer, load
from tests.worker.harness import WorkerHarness
from worker.process.blas import load_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX uses what the system has")


def text_with(harness: WorkerHarness, model: Path, library: str) -> tuple[str, str]:
    """What a worker says that is told to load this library, and what it prints."""
    worker = harness.start(arguments=("--blas-library", library))
    worker.serve(None, model)
    request_id = worker.request(prompt="p" * 70, temperature=0.0, max_tokens=20)
    return str(worker.answer(request_id)["text"]), worker.stderr


def expected(model: Path) -> str:
    return str(answer(load(model), prompt="p" * 70, temperature=0.0, max_tokens=20)["text"])


def test_one_that_is_not_there_is_a_line_in_the_log(harness: WorkerHarness, tiny_model: Path) -> None:
    text, printed = text_with(harness, tiny_model, "libnowhere.so.9")
    assert text == expected(tiny_model)
    (line,) = printed.splitlines()
    assert line.startswith("WARNING worker: blas_library: libnowhere.so.9: cannot open shared object file")
    assert line.endswith("MLX computes with its own BLAS")


def test_one_that_is_no_blas(caplog: pytest.LogCaptureFixture) -> None:
    assert not load_blas("libc.so.6")
    assert "libc.so.6 has no cblas_sgemm" in caplog.text


def own_blas() -> str | None:
    """The one that MLX's wheel brings along, under whatever name."""
    folder = Path(mx.__file__).parents[1] / "mlx_cpu.libs"
    return next((str(path) for path in folder.glob("libblas-*")), None)


@pytest.mark.parametrize("library", [own_blas(), ctypes.util.find_library("openblas")], ids=["own", "openblas"])
def test_one_that_is_there_gives_the_same_text(harness: WorkerHarness, tiny_model: Path, library: str | None) -> None:
    if library is None:
        pytest.skip("not on this machine")
    assert text_with(harness, tiny_model, library) == (expected(tiny_model), "")
