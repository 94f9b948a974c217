"""The session of broker and workers has a lower priority than others, where the system shares its cores by session."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHOWN = Path("/proc/self/autogroup")
CODE = """
from broker.processes.autogroup import lower_autogroup
lower_autogroup()
print(open("/proc/self/autogroup").read())
"""


@pytest.mark.skipif(not SHOWN.exists(), reason="this system does not share its cores between sessions")
@pytest.mark.parametrize("leads", [True, False])
def test_only_the_leader_lowers_its_session(leads: bool) -> None:
    before = SHOWN.read_text()
    command = [sys.executable, "-c", CODE]
    run = subprocess.run(
        command, cwd=ROOT, start_new_session=leads, capture_output=True, text=True, check=True, timeout=30
    )
    if leads:
        assert run.stdout.strip().endswith("nice 10")
    else:
        assert run.stdout.strip() == before.strip()
    assert SHOWN.read_text() == before
