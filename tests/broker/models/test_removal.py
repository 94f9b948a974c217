"""Which files go when a model is removed, and which stay: folders, repositories of the cache, links, other models."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from threading import enumerate as threads

import pytest

from broker.models.catalog import Catalog
from broker.models.entry import CatalogError, ModelOverride
from broker.models.places import Places
from broker.models.removal import delete_leftovers, remove_model
from tests.broker.models.model_folders import LLAMA, make_hub_model, make_model


@pytest.fixture
def remove(models: Path, hub: Path) -> Callable[[str], None]:
    """Removes a model, and waits until its files have gone."""

    def act(model_id: str) -> None:
        remove_model(Places(models, hub), model_id)
        finish()

    return act


def finish() -> None:
    for thread in threads():
        if thread.name in ("removal", "leftovers"):
            thread.join(10)
            assert not thread.is_alive()


def refusal(remove: Callable[[str], None], model_id: str) -> tuple[str, str]:
    with pytest.raises(CatalogError) as error:
        remove(model_id)
    return error.value.failure.code, str(error.value)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_of_the_models_directory_goes(models: Path, hub: Path, remove: Callable[[str], None]) -> None:
    make_model(models / "tiny")
    make_model(models / "org" / "a")
    make_model(models / "org" / "b")
    make_hub_model(hub, "org/a-b")
    remove("tiny")
    assert not (models / "tiny").exists()
    remove("org/a")
    assert [entry.spec.model_id for entry in Catalog(models, hub, {}).entries()] == ["org/a-b", "org/b"]
    remove("org/b")
    assert everything(models) == []
    remove("org/a-b")
    assert everything(hub) == []


def test_a_repository_goes_with_all_revisions_and_remains(hub: Path, remove: Callable[[str], None]) -> None:
    snapshot = make_hub_model(hub, "org/far")
    repository = hub / "models--org--far"
    make_model(snapshot.parent / "4567cdef")
    (repository / "blobs" / "abc.incomplete").write_bytes(b"half")
    locks = hub / ".locks" / "models--org--far"
    locks.mkdir(parents=True)
    (locks / "abc.lock").touch()
    (hub / ".locks" / "models--org--other").mkdir()
    remove("org/far")
    assert everything(hub) == [".locks", ".locks/models--org--other"]


def test_a_download_that_was_cut_short_can_be_removed(hub: Path, remove: Callable[[str], None]) -> None:
    blobs = hub / "models--org--half" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"half")
    remove("org/half")
    assert everything(hub) == []


def test_a_model_in_both_places_is_gone_afterwards(models: Path, hub: Path, remove: Callable[[str], None]) -> None:
    make_model(models / "org" / "twice")
    make_hub_model(hub, "org/twice")
    remove("org/twice")
    assert Catalog(models, hub, {}).entries() == []


def test_the_model_is_gone_before_its_files_are(models: Path, hub: Path) -> None:
    """As the answer says, whatever the disk takes."""
    make_model(models / "tiny")
    remove_model(Places(models, hub), "tiny")
    assert not (models / "tiny").exists()
    make_model(models / "tiny")  # a new one of this name
    finish()
    assert everything(models) == ["tiny", "tiny/config.json", "tiny/model.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["nobody", "org/nobody", "../tiny", "a/b/c", "", ".", "..", "org/..", ".hidden", "notes", "org", "\0", "a" * 300],
)
def test_what_is_no_model_stays(
    tmp_path: Path, models: Path, hub: Path, remove: Callable[[str], None], name: str
) -> None:
    make_model(tmp_path / "tiny")
    make_model(models / "org" / "a")
    make_model(models / ".hidden")
    (models / "notes").mkdir()
    (models / "notes" / "todo.txt").touch()
    make_hub_model(hub, "org/far")
    before = everything(tmp_path)
    assert refusal(remove, name)[0] == "model_not_found"
    assert everything(tmp_path) == before


def test_of_a_link_the_link_goes(models: Path, remove: Callable[[str], None]) -> None:
    make_model(models / "tiny")
    (models / "alias").symlink_to("tiny")
    remove("alias")
    assert everything(models) == ["tiny", "tiny/config.json", "tiny/model.safetensors"]


@pytest.mark.parametrize("link", ["models/away", "models/org", "hub/models--org--away"])
def test_what_links_lead_to_outside_stays(
    tmp_path: Path, models: Path, hub: Path, remove: Callable[[str], None], link: str
) -> None:
    make_hub_model(tmp_path / "disk", "org/away")
    make_model(tmp_path / "disk" / "away")
    (tmp_path / "disk" / "config.json").touch()
    target = "disk/models--org--away" if link.startswith("hub") else "disk" if link == "models/org" else "disk/away"
    (tmp_path / link).symlink_to(tmp_path / target)
    before = everything(tmp_path)
    code, message = refusal(remove, "away" if link == "models/away" else "org/away")
    assert code == "model_not_found"
    assert "is a link that leaves" in message
    assert everything(tmp_path) == before


def test_links_inside_a_model_are_not_followed(tmp_path: Path, models: Path, remove: Callable[[str], None]) -> None:
    folder = make_model(models / "tiny")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(bytes(1000))
    (folder / "model-2.safetensors").symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    remove("tiny")
    assert everything(models) == []
    assert (tmp_path / "elsewhere" / "model.safetensors").stat().st_size == 1000


def test_a_folder_with_other_models_in_it_stays(models: Path, remove: Callable[[str], None]) -> None:
    make_model(models / "org")
    make_model(models / "org" / "name")
    code, message = refusal(remove, "org")
    assert (code, message.endswith("such as org/name")) == ("model_in_use", True)
    assert (models / "org" / "config.json").exists()
    remove("org/name")
    remove("org")
    assert everything(models) == []


def test_the_parts_of_a_sentence_transformer_are_no_other_models(models: Path, remove: Callable[[str], None]) -> None:
    folder = make_model(models / "sentences")
    (folder / "modules.json").write_text("[]")
    make_model(folder / "2_Dense", {})
    assert refusal(remove, "sentences/2_Dense") == (
        "model_not_found",
        "sentences/2_Dense is a part of the model sentences",
    )
    remove("sentences")
    assert everything(models) == []


def test_a_repository_that_another_program_downloads_stays(hub: Path, remove: Callable[[str], None]) -> None:
    make_hub_model(hub, "org/far")
    locks = hub / ".locks" / "models--org--far"
    locks.mkdir(parents=True)
    with (locks / "abc.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refusal(remove, "org/far") == ("model_in_use", "another program is downloading org/far")
    remove("org/far")
    assert everything(hub) == [".locks"]


def test_what_cannot_be_removed_is_said(models: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(models / "tiny")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)  # tests may run as root, who may do everything
    with pytest.raises(CatalogError) as error:
        remove_model(Places(models, hub), "tiny")
    assert error.value.failure.code == "internal_error"
    assert str(error.value) == f"{models / 'tiny'} cannot be removed: Permission denied"
    assert (models / "tiny").exists()


def test_what_a_broker_has_left_the_next_one_deletes(models: Path, hub: Path) -> None:
    make_model(models / ".mlx-broker-removed-1")
    make_model(models / "org" / ".mlx-broker-removed-2")
    make_model(models / "tiny")
    make_model(hub / ".mlx-broker-removed-3")
    assert [entry.spec.model_id for entry in Catalog(models, hub, {}).entries()] == ["tiny"]
    delete_leftovers(models, hub, models / "gone")
    finish()
    assert everything(hub) == []
    assert everything(models) == ["tiny", "tiny/config.json", "tiny/model.safetensors"]


# ---- who is loaded from these files -------------------------------------------------------------------------------


def test_users_are_those_that_are_loaded_from_these_files(models: Path, hub: Path) -> None:
    make_model(models / "tiny")
    make_model(models / "large")
    make_model(models / "other")
    (models / "alias").symlink_to("tiny")
    make_hub_model(hub, "org/far")
    overrides = {
        "large": ModelOverride(options={"draft_model": "tiny"}),
        "other": ModelOverride(options={"draft_model": str(models / "alias")}),
        "echo": ModelOverride("echo", "worker.echo.engine:EchoEngine"),
    }
    catalog = Catalog(models, hub, overrides)
    assert catalog.users_of("tiny") == ["alias", "large", "other", "tiny"]
    assert catalog.users_of("alias") == ["alias", "other"]  # only the link would go
    assert catalog.users_of("large") == ["large"]
    assert catalog.users_of("org/far") == ["org/far"]
    assert catalog.users_of("echo") == catalog.users_of("nobody") == catalog.users_of("../tiny") == []


def test_who_has_an_adapter_in_these_files_is_a_user(models: Path, hub: Path) -> None:
    make_model(models / "tiny")
    make_model(models / "other")
    (models / "tiny" / "adapter").mkdir()
    overrides = {"other": ModelOverride(options={"adapter_path": str(models / "tiny" / "adapter")})}
    assert Catalog(models, hub, overrides).users_of("tiny") == ["other", "tiny"]
    overrides = {"other": ModelOverride(options={"adapter_path": "~nobody-of-this-name/adapter"})}
    assert Catalog(models, hub, overrides).users_of("tiny") == ["tiny"]


def test_a_model_that_cannot_be_used_has_no_users(models: Path, hub: Path) -> None:
    (make_model(models / "tiny") / "config.json").write_text(json.dumps(LLAMA | {"model_type": "zork"}))
    assert Catalog(models, hub, {}).users_of("tiny") == []
