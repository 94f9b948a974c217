"""A process that is killed while it writes: an engine over what it leaves answers as one without a disk."""

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.service import ROOT, wait_until
from tests.worker.cache.disk.disk_runs import files, over, written
from tests.worker.engine_runs import answer, load
from worker.cache.disk.files import PART_SUFFIX

PROMPTS = ["once upon a time " * 60 + f"{number} and so on " * 3 for number in range(4)]
# Blocks of prompts and answers, and tails, of new chats and of those that go on from what others have left. The disk is
# slow and takes a few bytes at a time, so that the process is in the middle of a file most of the time.
_ASKS = """
import itertools, json, os, sys, time
from pathlib import Path
from tests.worker.cache.disk.disk_runs import over
from tests.worker.engine_runs import run

folder, model = map(Path, sys.argv[1:3])
writev = os.writev


def slowly(descriptor, pieces):
    time.sleep(0.0005)
    return writev(descriptor, [memoryview(pieces[0])[:400]])


os.writev = slowly
engine = over(folder, model)
for number in itertools.count():
    prompts = [f"{sys.argv[3]}.{number} {prompt}" for prompt in json.loads(sys.argv[4])]
    for prompt in (*json.loads(sys.argv[4]), *prompts):
        run(engine, [{"prompt": prompt, "temperature": 0.0, "max_tokens": 300}])
"""


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_what_a_killed_engine_leaves_is_never_a_wrong_answer(tiny_model: Path, tmp_path: Path, times: int) -> None:
    random = Random(times)
    asked: list[dict[str, Any]] = [{"prompt": prompt, "temperature": 0.0, "max_tokens": 24} for prompt in PROMPTS]
    alone = load(tiny_model, prompt_cache_tokens=0)
    expected = [answer(alone, **fields) for fields in asked]
    torn = hits = 0
    for number in range(times):
        command = [sys.executable, "-c", _ASKS, str(tmp_path), str(tiny_model), str(number), json.dumps(PROMPTS)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                wait_until(lambda: any(path.suffix == PART_SUFFIX for path in files(tmp_path)))
                time.sleep(random.uniform(0.0, 0.3))
            finally:
                process.kill()
        torn += any(path.suffix == PART_SUFFIX for path in files(tmp_path))
        engine = over(tmp_path, tiny_model)
        assert [answer(engine, **fields) for fields in asked] == expected
        hits += engine.stats().disk_hits
        for path in written(engine, tmp_path):
            if random.random() < 0.5 or path.suffix == PART_SUFFIX:  # so that the next one writes it again
                path.unlink()
        engine.close()
    # Most are: too few of three cannot be told from chance.
    assert torn >= times // 4
    assert hits >= times // 4
