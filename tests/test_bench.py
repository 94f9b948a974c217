"""The profile counts samples by names in stacks; a name that is gone would count nothing, without a word."""

import re

import pytest

from bench import profile
from tests.service import ROOT

NAMES = sorted({name for hops in profile._HOPS.values() for names in hops.values() for name in names})
SOURCES = [*(ROOT / "broker").rglob("*.py"), *(ROOT / "worker").rglob("*.py"), *(ROOT / "gateway").rglob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_profile_looks_for_exists(name: str) -> None:
    if "/" in name:
        assert (ROOT / name).exists()
        return
    owner, dot, function = name.rpartition(".")
    wanted = [rf"^class {owner}\b"] if dot else []
    wanted += [rf"^ *(async )?def {function}\("] if function else []
    assert any(all(re.search(part, path.read_text(), flags=re.MULTILINE) for part in wanted) for path in SOURCES)


@pytest.mark.parametrize(
    ("role", "stack", "hop"),
    [
        (
            "gateway",
            "<module> (gateway/__main__.py:40);Connection._on_readable (gateway/link/connection.py:130)",
            "the rest",
        ),
        ("gateway", "Runner.run (asyncio/runners.py:118);receive_frames (broker/wire/frames.py:34)", "receive"),
        (
            "gateway",
            "main (gateway/__main__.py:30);Runner.run (asyncio/runners.py:118)",
            "wake up, write to the clients",
        ),
        ("broker", "Pool.handle (broker/policy/pool.py:80)", "decide"),
        (
            "worker",
            "TextEngine.step (worker/text/engine.py:9);Sequence.take (worker/generation/sequence.py:70)",
            "tokens",
        ),
    ],
)
def test_a_stack_counts_for_its_first_hop(role: str, stack: str, hop: str) -> None:
    assert profile._hop(role, stack).startswith(hop)
