"""The launchd job of docs/macos.md is one that launchd can read, and does what the page says."""

import plistlib
import re
from typing import Any

from cli.main import COMMANDS
from tests.service import ROOT


def job() -> dict[str, Any]:
    [text] = re.findall(r"^```xml\n(.*?)^```", (ROOT / "docs/macos.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    read: dict[str, Any] = plistlib.loads(text.encode())
    return read


def test_the_job_of_launchd() -> None:
    read = job()
    assert read["ProcessType"] == "Interactive"
    assert (read["RunAtLoad"], read["KeepAlive"]) == (True, True)
    program, command = read["ProgramArguments"]
    assert program.endswith("/.venv/bin/mlx-broker")
    assert command in COMMANDS
    assert read["WorkingDirectory"] == program.removesuffix("/.venv/bin/mlx-broker")


def test_launchd_expands_no_home() -> None:
    assert not re.search(r"~|\$", str(job()))


def test_the_page_calls_the_job_by_its_name() -> None:
    page, label = (ROOT / "docs/macos.md").read_text(), job()["Label"]
    assert f"~/Library/LaunchAgents/{label}.plist" in page
    assert set(re.findall(r"gui/\$UID/(\S+)", page)) == {label}
