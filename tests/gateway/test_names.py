"""Which model a name means, where the file system takes several spellings for one."""

import unicodedata

import pytest

from gateway import names
from gateway.names import meant
from tests.gateway.running import MODEL
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

KNOWN = ["org/Tiny", "org/tiny-2", unicodedata.normalize("NFC", "größe")]


@pytest.mark.parametrize(
    ("name", "on_macos", "elsewhere"),
    [
        ("org/Tiny", "org/Tiny", "org/Tiny"),
        ("ORG/tINY", "org/Tiny", None),
        (unicodedata.normalize("NFD", "Größe"), KNOWN[2], None),
        ("org/other", None, None),
    ],
)
def test_other_spellings(
    monkeypatch: pytest.MonkeyPatch, name: str, on_macos: str | None, elsewhere: str | None
) -> None:
    monkeypatch.setattr(names, "PLATFORM", "darwin")
    assert meant(name, KNOWN) == on_macos
    monkeypatch.setattr(names, "PLATFORM", "linux")
    assert meant(name, KNOWN) == elsewhere


def test_the_exact_name_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "PLATFORM", "darwin")
    assert meant("a", ["A", "a"]) == "a"


async def test_a_model_is_shown_by_every_spelling() -> None:
    async with served(ScriptedLink([{"models": [MODEL]}], models=["org/tiny"])) as client:
        assert (await client.get("/v1/models/ORG/Tiny")).json()["id"] == "org/tiny"
        assert (await client.get("/v1/models/org/other")).status_code == 404
