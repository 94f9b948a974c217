"""Files of uploads: where they lie, who can read them, and that none outlives its request or its gateway."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from broker.wire.failure import Code, FailureError
from gateway.http.uploads import AT_ONCE, FOLDER, FREE_BYTES, Uploads
from tests.gateway.running import ROOT

LIMIT = 1000


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    made = Uploads(tmp_path, LIMIT)
    made.open()
    yield made
    made.close()


def left_in(state_dir: Path) -> list[Path]:
    return sorted((state_dir / FOLDER).rglob("*"))


def test_nothing_is_made_before_the_first_upload(tmp_path: Path, uploads: Uploads) -> None:
    assert list(tmp_path.iterdir()) == []
    with uploads.new():
        assert (tmp_path / FOLDER).is_dir()


def test_only_this_user_can_read_it_and_nobody_else_has_its_name(tmp_path: Path, uploads: Uploads) -> None:
    with uploads.new() as one, uploads.new() as two:
        assert one.file.path != two.file.path
        assert stat.S_IMODE(one.file.path.stat().st_mode) == 0o600
        for folder in (one.file.path.parent, tmp_path / FOLDER):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_has_the_bytes_and_their_hash_until_the_end_of_the_block(uploads: Uploads) -> None:
    with uploads.new() as place:
        place.file.write(b"ab")
        place.file.write(b"c")
        place.file.close()
        assert place.file.path.read_bytes() == b"abc"
        assert place.file.size == 3
        assert place.file.digest == blake2b(b"abc", digest_size=16).digest()
    assert not place.file.path.exists()
    place.file.write(b"late")  # a thread that was on its way
    assert not place.file.path.exists()


def test_it_is_removed_by_an_error_too(uploads: Uploads) -> None:
    with pytest.raises(ZeroDivisionError), uploads.new() as place:
        raise ZeroDivisionError
    assert not place.file.path.exists()


def test_all_files_together_have_a_limit(uploads: Uploads) -> None:
    with uploads.new() as first:
        first.take(LIMIT * AT_ONCE)
        with uploads.new() as second, pytest.raises(FailureError) as refusal:
            second.take(1)
        assert refusal.value.failure.code is Code.RATE_LIMIT_EXCEEDED
    with uploads.new() as third:
        third.take(LIMIT)


def test_a_disk_that_takes_no_more_is_an_error_of_the_request(uploads: Uploads) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with uploads.new() as place:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(FailureError) as refusal:
                place.file.write(b"x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (refusal.value.failure.code, refusal.value.failure.retryable) == (Code.INSUFFICIENT_STORAGE, True)
    assert "File too large" in refusal.value.failure.message
    assert not place.file.path.exists()


def test_a_place_that_cannot_be_used_is_one_warning_and_an_error_of_each_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).write_text("a file")
    uploads = Uploads(tmp_path, LIMIT)
    uploads.open()
    [warning] = caplog.records
    assert warning.getMessage() == f"uploads cannot be stored in {tmp_path / FOLDER}: Not a directory"
    with pytest.raises(FailureError) as refusal, uploads.new():
        pass
    assert refusal.value.failure.code is Code.INSUFFICIENT_STORAGE


class Disk:
    """As full as a test says."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, folder: Path) -> os.statvfs_result:
        assert folder.is_dir()
        return os.statvfs_result((4096, 1024, 10**9, 10**9, self.free // 1024, 0, 0, 0, 0, 255))


def test_a_part_of_the_disk_is_left_to_others(tmp_path: Path) -> None:
    disk = Disk(FREE_BYTES)
    uploads = Uploads(tmp_path, LIMIT, disk)
    with uploads.new() as place:
        place.file.write(b"a")
        disk.free -= 1024
        with pytest.raises(FailureError) as in_the_middle:
            place.file.write(b"b")
        assert place.file.path.read_bytes() == b"a"
    with pytest.raises(FailureError) as before_it_comes, uploads.new():
        pass
    for refusal in (in_the_middle, before_it_comes):
        failure = refusal.value.failure
        assert (failure.code, failure.retryable) == (Code.INSUFFICIENT_STORAGE, True)
        assert failure.message == "the upload cannot be stored: its disk has less than 1024 MiB free"
    assert not [path for path in left_in(tmp_path) if path.is_file()]
    disk.free += 1024
    with uploads.new() as place:
        place.file.write(b"c")


def test_workers_find_it_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Uploads(Path("state"), LIMIT).new() as place:
        assert place.file.path.is_relative_to(tmp_path / "state")


_OTHER = """
import sys
from pathlib import Path
from gateway.http.uploads import Uploads
uploads = Uploads(Path(sys.argv[1]), 1000)
with uploads.new() as place:
    place.file.write(b"abc")
    print(place.file.path, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_gateway_has_left_is_removed_by_the_next_and_what_a_live_one_has_is_not(tmp_path: Path) -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", _OTHER, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        paths = [Path(other.stdout.readline().strip()) for other in others if other.stdout]
        assert [path.read_bytes() for path in paths] == [b"abc"] * 2
        others[0].kill()
        others[0].wait()
        Uploads(tmp_path, LIMIT).open()
        assert [path.exists() for path in paths] == [False, True]
        assert not paths[0].parent.exists()
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_what_is_no_folder_of_a_gateway_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "link").symlink_to(elsewhere)
    (tmp_path / FOLDER / "file").write_text("x")
    Uploads(tmp_path, LIMIT).open()
    assert (elsewhere / "precious").exists()
    assert (tmp_path / FOLDER / "link").readlink() == elsewhere


def test_the_folder_may_vanish_under_a_gateway_and_is_gone_after_it(tmp_path: Path, uploads: Uploads) -> None:
    with uploads.new() as place:
        place.file.path.unlink()
        place.file.path.parent.rmdir()
    with uploads.new() as again:
        again.file.write(b"x")
        Uploads(tmp_path, LIMIT).open()  # another gateway: this one lives
        assert again.file.path.exists()
        uploads.close()
    assert left_in(tmp_path) == []
