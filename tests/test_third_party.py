"""Every file of another project that ships with this one stands in THIRD_PARTY.md, with its hash."""

import hashlib
import re

from tests.service import ROOT


def test_every_vendored_file_is_named_with_its_hash() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|", (ROOT / "THIRD_PARTY.md").read_text(), flags=re.MULTILINE
    )
    vendored = [path for path in ROOT.glob("gateway/**/vendor/**/*") if path.is_file()]
    assert len(vendored) > 2
    assert dict(rows) == {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in vendored
    }
