"""Contract of typer: see docs/upstream.md."""

import json
import subprocess
import sys

from tests.service import ROOT

_PROBE = """
import json, sys, typer
from cli.texts import take_texts_as_they_are
taken = []
def command(name: str, flag: bool = False, other: str | None = None) -> None:
    taken.append([name, flag, other])
take_texts_as_they_are()
app = typer.Typer()
app.command()(command)
with typer.main.get_command(app).make_context("probe", ["a", "--flag", "--other", "b"]) as context:
    context.command.invoke(context)
print(json.dumps([taken, "pydantic" in sys.modules]))
"""


def test_typer_conversion() -> None:
    """Texts and flags arrive, and pydantic is not imported for them."""
    command = [sys.executable, "-c", _PROBE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(result.stdout) == [[["a", True, "b"]], False]
