"""Another BLAS in a real worker: the same text with it, and without one that is not there."""

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from tests.service import ROOT
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


# A process of its own: what is loaded stays.
_LOADS = """
import sys
from worker.process.blas import load_blas, loaded_blas
assert loaded_blas() is None
assert not load_blas("libc.so.6")
assert loaded_blas() is None
assert load_blas(sys.argv[1])
print(loaded_blas())
"""


def test_what_was_loaded_is_known_by_its_file(tmp_path: Path) -> None:
    """Behind a link, and another one once it changes: a package manager updates it under its name."""
    if (library := own_blas()) is None:
        pytest.skip("not on this machine")

    def loaded(path: Path) -> str:
        command = [sys.executable, "-c", _LOADS, str(path)]
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    file, link = tmp_path / "libblas.so.1.2", tmp_path / "libblas.so"
    shutil.copy(library, file)
    link.symlink_to(file)
    first = loaded(link)
    assert first == f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}\n"
    os.utime(file, (1, 1))
    assert loaded(link) != first


@pytest.mark.parametrize("library", [own_blas(), ctypes.util.find_library("openblas")], ids=["own", "openblas"])
def test_one_that_is_there_gives_the_same_text(harness: WorkerHarness, tiny_model: Path, library: str | None) -> None:
    if library is None:
        pytest.skip("not on this machine")
    assert text_with(harness, tiny_model, library) == (expected(tiny_model), "")
