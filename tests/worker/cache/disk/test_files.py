"""Files that are torn, flipped or renamed are never read as something else."""

import fcntl
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from worker.cache.disk import files
from worker.cache.disk.files import DamagedError, Scratch, Tensor


def nothing(_descriptor: int) -> None:
    pass


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    return files.read_file(str(path), nothing, Scratch())


def write_file(path: Path, written: dict[str, Tensor], facts: dict[str, str]) -> int:
    return files.write_file(str(path), written, facts, nothing)


def tensors(number: int) -> dict[str, Tensor]:
    data = np.arange(number, number + 3_000, dtype=np.float32).reshape(2, 3, 50, 10)
    return {"0": Tensor("F32", data[:, :, 10:40]), "1": Tensor("BF16", np.full((4, 4), number, np.uint16))}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.kind == other[name].kind and np.array_equal(tensor.data, other[name].data)
        for name, tensor in one.items()
    )


def test_what_is_written_is_read_and_is_a_safetensors_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    size = write_file(file, tensors(3), {"said": "so"})
    found, facts = read_file(file)
    assert same(found, tensors(3))
    assert facts["said"] == "so"
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (size, 0o600)
    loaded: Any = mx.load(str(file))
    assert mx.array_equal(loaded["0"], mx.array(tensors(3)["0"].data))
    assert loaded["1"].dtype == mx.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_file(file, tensors(1), {"said": "so"})
    whole = file.read_bytes()
    random = Random(1)
    for place in (*range(300), *random.sample(range(len(whole)), 100)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.randrange(8))]) + whole[place + 1 :])
        with pytest.raises(DamagedError):
            read_file(file)


def test_what_is_cut_short_or_renamed_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_file(file, tensors(1), {})
    whole = file.read_bytes()
    other = tmp_path / "b.safetensors"
    other.write_bytes(whole)
    for place in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place])
        with pytest.raises(DamagedError):
            read_file(file)
    with pytest.raises(DamagedError):
        read_file(other)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "c.safetensors")


@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_leaves_whole_files(tmp_path: Path, times: int) -> None:
    random = Random(times)
    for number in range(times):
        begun, begins = os.pipe()
        pid = os.fork()
        if pid == 0:
            count = number
            write_file(tmp_path / f"{count % 7}.safetensors", tensors(count % 7), {})
            os.close(begins)
            while True:
                write_file(tmp_path / f"{count % 7}.safetensors", tensors(count % 7), {})
                count += 1
        os.close(begins)
        assert os.read(begun, 1) == b""  # the child has closed it too: it has written a first file
        os.close(begun)
        time.sleep(random.uniform(0.0, 0.01))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found = [path for path in tmp_path.iterdir() if path.suffix == ".safetensors"]
    assert found
    for path in found:
        assert same(read_file(path)[0], tensors(int(path.stem)))


def test_on_macos_files_do_not_pass_through_the_page_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played: Linux has no such call."""
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(fcntl, "F_NOCACHE", 48, raising=False)
    files.keep_out_of_page_cache(7)
    assert calls == []
    monkeypatch.setattr("sys.platform", "darwin")
    files.keep_out_of_page_cache(7)
    assert calls == [(7, 48, 1)]


def test_each_file_that_is_opened_is_kept_out_of_the_page_cache(tmp_path: Path) -> None:
    sizes: list[int] = []

    def uncached(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)

    path = str(tmp_path / "a.safetensors")
    size = files.write_file(path, tensors(1), {}, uncached)
    files.read_file(path, uncached, Scratch())
    assert sizes == [0, size]  # before anything passes through
