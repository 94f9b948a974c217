"""docs/families.md says of every family what the engine finds out of it."""

import re

import pytest

from tests.every_family import families
from tests.service import ROOT
from tests.worker.text.test_sharing import random_model
from tests.worker.text.test_sweep import CANNOT
from worker.cache.kv_caches import can_be_shortened
from worker.text.sharing import Sharing, sharing_of

PAGE = (ROOT / "docs" / "families.md").read_text().partition("## Text models\n")[2].partition("\n## ")[0]
BATCH = {
    Sharing.ALL: "together",
    Sharing.DECODE: "decode together, prompts one at a time",
    Sharing.NOTHING: "in turns",
}
# Family -> (batch, prompt cache), as the page has it.
ROWS = {
    family: (cells[0], cells[1])
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("| ").split(" | ")]) == 3
    for family in re.findall(r"`([\w.-]+)`", cells[2])
}


def test_every_family_has_a_row_or_a_reason() -> None:
    assert ROWS.keys() == set(families()) - CANNOT.keys()
    reasons = PAGE.partition("Not in the table")[2]
    assert [name for name in CANNOT if f"`{name}`" not in reasons] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in families() if family not in CANNOT])
def test_the_row_says_what_the_engine_does(family: str) -> None:
    model = random_model(family)
    cache = "any shared beginning" if can_be_shortened(model) else "checkpoints"
    assert ROWS[family] == (BATCH[sharing_of(model)], cache)
