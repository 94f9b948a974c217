"""Tests that need a package index are skipped only where there is none; a run of pytest in its own process shows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.downloaded import has_index
from tests.service import ROOT

NEEDY = """
import pytest

@pytest.mark.needs_index("no-such-file.whl")
def test_needy(): pass

@pytest.mark.needs_index("no-such-file.whl")
def test_needy_too(): pass

def test_content(): pass
"""


def run_needy(tmp_path: Path, **environment: str) -> str:
    """The end of what pytest prints, with an empty cache and this project's conftest."""
    folder = tmp_path / "needy"
    folder.mkdir()
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_needy.py").write_text(NEEDY)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    result = subprocess.run(
        [*command, "--import-mode=importlib", "--rootdir", str(tmp_path), str(folder)],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_without_an_index_they_are_skipped_and_one_line_says_so(tmp_path: Path) -> None:
    printed = run_needy(tmp_path, PIP_NO_INDEX="1")
    assert "1 passed, 2 skipped" in printed
    [line] = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    assert line.startswith("SKIPPED [2]")
    assert "no package index can be reached" in line
    assert "no-such-file.whl" in line


def test_with_the_file_they_run(tmp_path: Path) -> None:
    downloads = tmp_path / "cache" / "mlx-broker" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "no-such-file.whl").touch()
    assert "3 passed" in run_needy(tmp_path, PIP_NO_INDEX="1")


def test_an_index_that_serves_pip_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "simple" / "pip"
    page.mkdir(parents=True)
    (page / "index.html").write_text('<!DOCTYPE html><a href="pip-26.0-py3-none-any.whl">pip-26.0-py3-none-any.whl</a>')
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert has_index.__wrapped__()
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nothing").as_uri())
    assert not has_index.__wrapped__()
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    monkeypatch.setattr(sys, "executable", "/bin/false")  # it fails, and says nothing of an index
    assert has_index.__wrapped__()
