"""What transformers has, without reading its sources again: the same, and quicker. Each import in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.loading.quick_imports import remembered

# The whole table; what is read on the way; and that names of it are still found.
LOOK = """
import builtins, json, sys
from pathlib import Path
from worker.loading.quick_imports import remember_import_structure
if sys.argv[1]:
    remember_import_structure(Path(sys.argv[1]))
sources, plain = 0, builtins.open
def counting(file, *args, **options):
    global sources
    sources += "/transformers/" in str(file) and str(file).endswith(".py")
    return plain(file, *args, **options)
builtins.open = counting
import transformers
from transformers import AutoTokenizer, LlamaConfig
builtins.open = plain
modules = sorted(f"{name}: {module}" for name, module in transformers._class_to_module.items())
print(json.dumps([sources, modules, AutoTokenizer.__module__, LlamaConfig.__module__]))
"""


def look(folder: Path | str) -> tuple[int, list[object]]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOOK, str(folder)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    sources, *found = json.loads(answer.stdout)
    return sources, found


def test_the_second_process_reads_a_file_and_not_the_sources(tmp_path: Path) -> None:
    folder = tmp_path / "imports"
    read, expected = look("")
    assert read > 1000
    first, found = look(folder)
    assert found == expected
    assert first > 1000
    second, found = look(folder)
    assert found == expected
    assert second < 100


@pytest.mark.parametrize("damage", ["", "{", "[1]", "[[[], 3]]", "null"])
def test_a_file_that_is_not_one_of_ours_is_made_anew(tmp_path: Path, damage: str) -> None:
    (sources := tmp_path / "package").mkdir()
    asked = []

    def define(path: Path, prefix: str | None = None) -> dict[frozenset[str], dict[str, set[str]]]:
        asked.append((path, prefix))
        return {frozenset({"torch"}): {f"{prefix}.a": {"A", "B"}}, frozenset(): {}}

    quick = remembered(define, tmp_path / "imports", "1.0")
    whole = quick(sources, prefix="models")
    assert whole == define(sources, "models") == quick(sources, prefix="models")
    assert len(asked) == 2
    [file] = (tmp_path / "imports").iterdir()
    file.write_text(damage)
    assert quick(sources, prefix="models") == whole
    assert len(asked) == 3
    assert quick(sources, prefix="models") == whole
    assert len(asked) == 3


def test_another_release_or_place_is_not_taken_for_this_one(tmp_path: Path) -> None:
    asked = []

    def define(path: Path, prefix: str | None = None) -> dict[frozenset[str], dict[str, set[str]]]:
        asked.append(path)
        return {frozenset(): {str(path): {str(prefix)}}}

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for release in ("1", "2"):
            for prefix in (None, "models"):
                for _ in range(2):
                    quick = remembered(define, tmp_path / "imports", release)
                    assert quick(tmp_path / name, prefix) == {frozenset(): {str(tmp_path / name): {str(prefix)}}}
    assert len(asked) == 8
