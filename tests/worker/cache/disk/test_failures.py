"""A disk that fails costs hits, and never an answer: all of these ask an engine and look at what it answers."""

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from broker.wire.to_workers import Assign
from tests.service import ROOT
from tests.worker.cache.disk.disk_runs import disk_at, files, over, written
from tests.worker.engine_runs import add, answer, load, run, without_count
from tests.worker.stepping import MOST_STEPS
from worker.cache.disk.disk_cache import DiskCache, DiskSettings
from worker.cache.disk.space import Bounds
from worker.text.engine import TextEngine
from worker.text.make_batch import make_batch
from worker.text.options import TextOptions

ASKED: dict[str, Any] = {"prompt": "once upon a time " * 60, "temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> dict[str, Any]:
    return answer(load(tiny_model, prompt_cache_tokens=0), **ASKED)


def cached(engine: TextEngine, expected: dict[str, Any]) -> int:
    body = run(engine, [ASKED])[0][-1].body
    assert without_count(body) == expected
    return int(body["cached_tokens"])


def test_files_and_folders_are_their_owners(tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    engine = over(tmp_path, tiny_model)
    assert cached(engine, expected) == 0
    found = written(engine, tmp_path)
    assert len(found) == 4
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    folders = [tmp_path / "cache", *(path for path in (tmp_path / "cache").rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert all(set(path.stem) <= set("0123456789abcdef") for path in found)
    stats = engine.stats()
    assert (stats.disk_files, stats.disk_queue_bytes, stats.disk_hits) == (4, 0, 0)
    assert stats.disk_bytes == sum(path.stat().st_size for path in found)


@pytest.mark.parametrize(
    ("more", "count", "whole_hit"), [("", 4, 1024 - 256), ("and nobody was there " * 5, 5, 1020 + 5 * 21 - 1)]
)
def test_what_is_damaged_is_a_miss(tiny_model: Path, tmp_path: Path, more: str, count: int, whole_hit: int) -> None:
    """Torn or with another bit; the second prompt leaves a tail too."""
    fields = {**ASKED, "prompt": ASKED["prompt"] + more}
    expected = answer(load(tiny_model, prompt_cache_tokens=0), **fields)

    def cached(engine: TextEngine) -> int:
        body = run(engine, [fields])[0][-1].body
        assert without_count(body) == expected
        return int(body["cached_tokens"])

    random = Random(2)
    first = over(tmp_path, tiny_model)
    assert cached(first) == 0
    whole = {path: path.read_bytes() for path in written(first, tmp_path)}
    assert len(whole) == count
    for number, path in enumerate([path for path in whole for _ in range(2)]):
        place = random.randrange(len(whole[path]))
        torn = whole[path][:place] + (b"" if number % 2 else bytes([whole[path][place] ^ 4]) + whole[path][place + 1 :])
        path.write_bytes(torn)
        second = over(tmp_path, tiny_model)
        hit = cached(second)
        assert hit % 256 == 0
        assert hit < whole_hit or not more  # the last block of the first prompt is not used
        assert set(written(second, tmp_path)) == whole.keys()  # written anew
        third = over(tmp_path, tiny_model)
        assert cached(third) == whole_hit
        written(third, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert cached(over(tmp_path, tiny_model)) == 0


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A disk of its own at this folder; what mounts it again with other options."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() or not mount(options):
        pytest.skip("only root can mount a small disk")
    try:
        yield lambda options: pytest.fail("cannot be mounted") if not mount(f"remount,{options}") else None
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_disk_that_is_really_full(
    tiny_model: Path, tmp_path: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It has bytes left and no room for another file, which cannot be known before."""
    folder = tmp_path / "small"
    with small_disk(folder, "size=1m,nr_inodes=6"):
        engine = over(folder, tiny_model)
        assert cached(engine, expected) == 0
        assert len(written(engine, folder)) == 2
        assert cached(engine, expected) > 1000  # in memory
        assert os.strerror(errno.ENOSPC) in caplog.text
        assert cached(over(folder, tiny_model), expected) == 2 * 256


def test_a_disk_that_is_too_small(tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    """What was there first makes room for what comes."""
    folder = tmp_path / "small"
    with small_disk(folder, "size=100k"):
        for _ in range(2):
            engine = over(folder, tiny_model)
            assert cached(engine, expected) % 256 == 0
            assert 1 <= len(written(engine, folder)) < 4


def test_a_disk_that_is_really_read_only(
    tiny_model: Path, tmp_path: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is still of use."""
    folder = tmp_path / "small"
    with small_disk(folder, "size=1m") as mount_again:
        first = over(folder, tiny_model)
        assert cached(first, expected) == 0
        assert len(written(first, folder)) == 4
        first.close()
        mount_again("ro,size=1m")
        engine = over(folder, tiny_model)
        assert cached(engine, expected) == 768
        body = run(engine, [{"prompt": "another " * 100, "max_tokens": 1}])[0][-1].body
        assert body["cached_tokens"] == 0
        assert len(written(engine, folder)) == 4
        assert os.strerror(errno.EROFS) in caplog.text


def test_a_file_that_may_not_grow(
    tiny_model: Path, tmp_path: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As a quota has it: a part of it is written already."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    engine = over(tmp_path, tiny_model)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        assert cached(engine, expected) == 0
        assert written(engine, tmp_path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cached(engine, expected) > 1000
    assert os.strerror(errno.EFBIG) in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_full_or_read_only_disk_turns_it_off_with_one_line(
    tiny_model: Path, tmp_path: Path, expected: dict[str, Any], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    def make_disk(_assign: Assign, _options: TextOptions) -> DiskCache:
        settings = DiskSettings(tmp_path / "cache" / "model", Bounds(10**9, 0), 1e9)
        return DiskCache(settings, b"model", uncached=fails)

    assign = Assign(tiny_model.name, str(tiny_model), "text-gen")
    engine = TextEngine(assign, lambda _stage, _fraction: None, make_batch=make_batch, make_disk=make_disk)
    with caplog.at_level(logging.WARNING, "worker"):
        assert cached(engine, expected) == 0
        assert files(tmp_path) == written(engine, tmp_path) == []
        assert cached(engine, expected) > 1000  # in memory
        add(engine, 1, prompt="another", max_tokens=300, temperature=0.0, logit_bias={"257": -100.0})
        while engine.has_work:
            engine.step()
            assert engine.stats().disk_queue_bytes == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert os.strerror(number) in caplog.records[0].getMessage()


def test_a_folder_that_cannot_be_made_turns_it_off(
    tiny_model: Path, tmp_path: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    engine = over(tmp_path, tiny_model)
    assert cached(engine, expected) == 0
    assert engine.stats().disk_queue_bytes == 0
    assert len(caplog.records) == 1


def test_nothing_is_written_below_the_reserve(tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    engine = over(tmp_path, tiny_model, disk=disk_at(tmp_path, reserve=2**60))
    assert cached(engine, expected) == 0
    assert written(engine, tmp_path) == []


def test_it_stays_within_its_bytes_over_all_models(tiny_model: Path, tmp_path: Path) -> None:
    disk = disk_at(tmp_path, nbytes=500_000)
    engines = [over(tmp_path, tiny_model, disk={**disk, "cache_dir": f"{disk['cache_dir']}{n}"}) for n in range(2)]
    for number in range(12):
        for engine in engines:
            run(engine, [{"prompt": f"{number}" * 600, "max_tokens": 1}])
            written(engine, tmp_path)
    last = sum(path.stat().st_size for path in files(tmp_path))
    # Until its next look each process knows of its own writes alone; what a header takes is known after the write.
    assert 300_000 < last <= 1_010_000
    assert engines[0].stats().disk_bytes <= 505_000


def test_two_processes_of_one_model_share_files(tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    one, other = over(tmp_path, tiny_model), over(tmp_path, tiny_model)
    asked = [{**ASKED, "prompt": f"{letter} " + ASKED["prompt"]} for letter in "abcdef"]
    alone = [answer(load(tiny_model, prompt_cache_tokens=0), **fields) for fields in asked]
    for engine in (one, other):
        for number, fields in enumerate(asked):
            add(engine, number, **fields)
    for _ in range(MOST_STEPS):
        if not (one.has_work or other.has_work):
            break
        one.step()
        other.step()
    written(one, tmp_path)
    assert len(written(other, tmp_path)) == 6 * 4
    third = over(tmp_path, tiny_model)
    for fields, whole in zip(asked, alone, strict=True):
        body = run(third, [fields])[0][-1].body
        assert (without_count(body), body["cached_tokens"]) == (whole, 768)
    assert cached(third, expected) == 0


# A process of its own: the text and the tokens from the cache of each prompt, asked twice.
_ASKS = """
import json, sys
from pathlib import Path
from tests.worker.cache.disk.disk_runs import over, written
from tests.worker.engine_runs import run

folder, model = map(Path, sys.argv[1:3])
engine = over(folder, model, prompt_cache_tokens=2000)
answers = []
for prompt in json.loads(sys.argv[3]):
    body = run(engine, [{"prompt": prompt, "temperature": 0.0, "max_tokens": 12}])[0][-1].body
    answers.append([body["text"], body["cached_tokens"]])
assert written(engine, folder)
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_two_real_processes_of_one_model(tiny_model: Path, tmp_path: Path) -> None:
    """They write and read the same files at the same time."""
    prompts = [f"{letter} " + ASKED["prompt"] for letter in "abcdefghij"]
    alone = load(tiny_model, prompt_cache_tokens=0)
    expected = [answer(alone, **{**ASKED, "prompt": prompt})["text"] for prompt in prompts]
    orders = (2 * prompts, 2 * prompts[::-1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _ASKS, str(tmp_path), str(tiny_model), json.dumps(order)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for order in orders
    ]
    texts = dict(zip(prompts, expected, strict=True))
    hits = 0
    for worker, order in zip(workers, orders, strict=True):
        said = json.loads(worker.communicate(timeout=100)[0])
        assert [text for text, _ in said] == [texts[prompt] for prompt in order]
        hits += sum(cached >= 768 for _, cached in said)
    assert hits >= 20
    assert len(files(tmp_path)) == 4 * len(prompts)


def test_what_is_forgotten_is_gone(tiny_model: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    engine = over(tmp_path, tiny_model)
    assert cached(engine, expected) == 0
    assert written(engine, tmp_path)
    engine.forget()
    assert written(engine, tmp_path) == []
    assert cached(engine, expected) == 0
    assert len(written(engine, tmp_path)) == 4


def blocks_while(engine: TextEngine, folder: Path, until: Callable[[], bool]) -> None:
    for _ in range(MOST_STEPS):
        if until():
            return
        engine.step()
    raise AssertionError("never")


def test_a_sequence_is_written_as_it_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    """In the middle of a prompt and of an answer, beside others of other lengths."""
    engine = over(tmp_path, tiny_model, prefill_step_size=256)
    fields: dict[str, Any] = {"temperature": 0.0, "logit_bias": {"257": -100.0}}
    add(engine, 1, prompt="a" * 2000, max_tokens=900, **fields)
    add(engine, 2, prompt="b" * 100, max_tokens=900, **fields)
    blocks_while(engine, tmp_path, lambda: len(written(engine, tmp_path)) >= 3)
    assert engine.stats().prefilling > 0
    blocks_while(engine, tmp_path, lambda: engine.stats().generation_tokens > 1700)
    written(engine, tmp_path)
    assert engine.stats().live == 2
    live = load(tiny_model, prompt_cache_tokens=0)
    second = over(tmp_path, tiny_model)
    lengths = []
    for _, tokens, settled in engine._batch.settled():
        asked = {"prompt": [*tokens[:settled], 32, 33], "max_tokens": 20, **fields}
        body = run(second, [asked])[0][-1].body
        assert without_count(body) == answer(live, **asked)
        assert body["cached_tokens"] == settled // 256 * 256
        lengths.append(settled)
    assert min(lengths) > 900
    assert max(lengths) > 2800


def test_what_the_next_look_will_take_is_queued(tiny_model: Path, tmp_path: Path) -> None:
    """So that an empty queue says that every complete block is on disk."""
    engine = over(tmp_path, tiny_model)
    fields: dict[str, Any] = {"temperature": 0.0, "logit_bias": {"257": -100.0}}
    for number, prompt in enumerate(("a" * 240, "b" * 250)):
        add(engine, number, prompt=prompt, max_tokens=300, **fields)
    seen = 0
    while engine.has_work:
        engine.step()
        disk = engine._saved._disk
        assert disk is not None
        assert disk.writer.wait(20.0)
        if not engine.stats().disk_queue_bytes and engine.has_work:
            assert sum(settled // 256 for _, _, settled in engine._batch.settled()) == len(files(tmp_path))
            seen += 1
    assert seen > 200
    assert engine.stats().disk_queue_bytes == 0


def test_a_look_copies_little_at_a_time(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.text.saved_prompts._COPIED_BYTES", 100_000)
    engine = over(tmp_path, tiny_model)
    add(engine, 1, prompt="once upon a time " * 200, max_tokens=60, temperature=0.0)
    counts = [0]
    while engine.has_work:
        engine.step()
        if engine.stats().live:
            counts.append(len(written(engine, tmp_path)))
    assert max(after - before for before, after in pairwise(counts)) == 3  # of 33 kB each
    assert counts[-1] == 13


def test_a_request_that_is_cancelled_while_its_cache_is_read(tiny_model: Path, tmp_path: Path) -> None:
    first = over(tmp_path, tiny_model)
    run(first, [ASKED])
    written(first, tmp_path)
    second = over(tmp_path, tiny_model)
    request_id = add(second, 1, **ASKED)
    assert (second.has_work, second.stats().live, second.stats().waiting) == (True, 1, 1)
    second.cancel(request_id)
    assert (second.has_work, second.stats().live, second.stats().waiting) == (False, 0, 0)
    assert second.step() == []
