"""The pure modules of the page, by Node's own runner."""

import os
import shutil
import subprocess

import pytest

from tests.service import ROOT


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
def test_the_pure_modules() -> None:
    files = sorted(map(str, (ROOT / "tests" / "page" / "pure").glob("*.test.mjs")))
    assert len(files) == 4
    command = ["node", "--no-warnings", "--test", "--test-reporter=tap", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ.copy())
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout
