"""One model has one id, the one on the disk, also where the file system finds it by other spellings.

A file system that tells no cases apart is played by its only answer that matters: whether two names are one folder.
"""

import os
import unicodedata
from pathlib import Path

import pytest

from broker.lookup import Lookup
from broker.models.catalog import Catalog
from broker.models.entry import CatalogError, ModelOverride
from broker.models.places import FileSystem
from broker.policy.events import LoadRequested, ModelMissed, ModelPinned, RequestArrived
from broker.policy.specs import ModelSpec
from broker.wire.from_gateways import InferenceRequest
from broker.wire.model_names import folded
from tests.broker.models.model_folders import make_hub_model, make_model

COMPOSED, APART = (unicodedata.normalize(form, "org/größe") for form in ("NFC", "NFD"))


def folds(one: Path, other: Path) -> bool:
    return folded(str(one)) == folded(str(other)) and any(path.exists() for path in (one, other))


MACOS = FileSystem(os.listdir, folds)


@pytest.fixture
def macos(models: Path, hub: Path) -> Catalog:
    return Catalog(models, hub, {}, MACOS)


@pytest.mark.parametrize(
    ("on_disk", "asked"),
    [
        ("Qwen3-8B-4bit", "qwen3-8b-4bit"),
        ("mlx-community/Qwen3-8B-4bit", "mlx-community/qwen3-8b-4bit"),
        ("mlx-community/Qwen3-8B-4bit", "MLX-Community/Qwen3-8B-4bit"),
        (COMPOSED, APART),
        (APART, COMPOSED),
        ("org/STRASSE", "org/straße"),
    ],
)
def test_every_spelling_is_the_one_on_the_disk(macos: Catalog, models: Path, on_disk: str, asked: str) -> None:
    folder = make_model(models / on_disk)
    assert macos.id_of(asked) == macos.id_of(on_disk) == on_disk
    assert macos.find(macos.id_of(asked)).path == str(folder)
    assert [entry.spec.model_id for entry in macos.entries()] == [on_disk]


def test_a_repository_of_the_hugging_face_cache_too(macos: Catalog, hub: Path) -> None:
    make_hub_model(hub, "Org/Tiny-4bit")
    assert macos.id_of("org/tiny-4BIT") == "Org/Tiny-4bit"
    assert [entry.spec.model_id for entry in macos.entries()] == ["Org/Tiny-4bit"]


def test_where_cases_are_told_apart_another_spelling_is_another_model(catalog: Catalog, models: Path) -> None:
    make_model(models / "Tiny")
    assert catalog.id_of("tiny") == "tiny"
    with pytest.raises(CatalogError):
        catalog.find("tiny")
    make_model(models / "tiny")
    assert (catalog.id_of("tiny"), catalog.id_of("Tiny")) == ("tiny", "Tiny")


@pytest.mark.parametrize("name", ["nobody", "org/nobody", "../Tiny", "x" * 300, "a/b/c", "\ud83d", ""])
def test_what_leads_nowhere_keeps_its_name(macos: Catalog, models: Path, name: str) -> None:
    make_model(models / "Tiny")
    assert macos.id_of(name) == name


def test_a_folder_that_cannot_be_listed_is_found_by_its_own_name(models: Path, hub: Path) -> None:
    def refuse(_folder: Path) -> list[str]:
        raise PermissionError

    make_model(models / "Tiny")
    catalog = Catalog(models, hub, {}, FileSystem(refuse, folds))
    assert catalog.id_of("Tiny") == "Tiny"
    assert catalog.find("Tiny").model_id == "Tiny"


@pytest.mark.parametrize("named", ["Tiny", "tiny"])
def test_settings_of_a_model_apply_by_whichever_name(models: Path, hub: Path, named: str) -> None:
    make_model(models / "Tiny")
    override = ModelOverride(options={"context_length": 100}, memory_limit_bytes=7)
    catalog = Catalog(models, hub, {named: override}, MACOS)
    for asked in ("Tiny", "TINY"):
        spec = catalog.find(catalog.id_of(asked))
        assert (spec.model_id, spec.options, spec.memory_limit_bytes) == ("Tiny", {"context_length": 100}, 7)


def test_settings_of_the_exact_name_come_first(models: Path, hub: Path) -> None:
    make_model(models / "Tiny")
    overrides = {"tiny": ModelOverride(memory_limit_bytes=1), "Tiny": ModelOverride(memory_limit_bytes=2)}
    assert Catalog(models, hub, overrides, MACOS).find("Tiny").memory_limit_bytes == 2


def test_a_model_without_files_has_the_name_of_its_settings(models: Path, hub: Path) -> None:
    make_model(models / "Echo")
    catalog = Catalog(models, hub, {"echo": ModelOverride("echo", "worker.echo.engine:EchoEngine")}, MACOS)
    assert catalog.id_of("echo") == "echo"
    assert catalog.find("Echo").engine is None


def test_whatever_is_asked_for_comes_with_the_one_id(macos: Catalog, models: Path) -> None:
    make_model(models / "Tiny")
    running: dict[str, ModelSpec] = {}
    lookup = Lookup(macos, running.get)
    for name in ("tiny", "TINY", "Tiny"):
        request, load = lookup.request(b"r", InferenceRequest(name, b"")), lookup.load(b"l", name)
        assert isinstance(request, RequestArrived)
        assert isinstance(load, LoadRequested)
        for event in (request, load):
            assert event.spec is not None
            assert (event.model_id, event.spec.model_id) == ("Tiny", "Tiny")
        assert lookup.id_of(name) == "Tiny"
    [pin] = lookup.pins(["tiny", "Tiny", "TINY"])
    assert isinstance(pin, ModelPinned)
    assert pin.model_id == "Tiny"


def test_a_model_that_runs_is_met_by_every_spelling_and_needs_no_look_at_its_own(macos: Catalog, models: Path) -> None:
    folder = make_model(models / "Tiny")
    spec = macos.find("Tiny")
    lookup = Lookup(macos, {"Tiny": spec}.get)
    arrived = lookup.request(b"r", InferenceRequest("tiny", b""))
    assert isinstance(arrived, RequestArrived)
    assert arrived.spec is spec
    folder.rename(models / "elsewhere")
    assert lookup.id_of("Tiny") == "Tiny"


def test_what_clients_mean_by_names(macos: Catalog, catalog: Catalog, models: Path) -> None:
    make_model(models / "org/Tiny")
    here, nothing = {"model_id": "org/Tiny", "fetchable": False}, {"model_id": None, "fetchable": False}
    for files in (macos, catalog):
        lookup = Lookup(files, dict[str, ModelSpec]().get, downloads=True)
        assert lookup.resolve("org/Tiny") == lookup.resolve("ORG/tINY") == here
        assert lookup.resolve("nobody") == lookup.resolve("../Tiny") == lookup.resolve("") == nothing
        assert lookup.resolve("org/new") == {"model_id": None, "fetchable": True}
        assert Lookup(files, dict[str, ModelSpec]().get).resolve("org/new") == nothing
    # A model that cannot be used is one, and its request says why.
    (models / "org/Tiny/config.json").write_text("nonsense")
    assert Lookup(catalog, dict[str, ModelSpec]().get).resolve("org/tiny") == here


def test_of_two_models_that_differ_in_case_alone_only_their_own_names_mean_one(catalog: Catalog, models: Path) -> None:
    make_model(models / "Tiny")
    make_model(models / "tiny")
    lookup = Lookup(catalog, dict[str, ModelSpec]().get)
    assert [lookup.resolve(name)["model_id"] for name in ("Tiny", "tiny", "TINY")] == ["Tiny", "tiny", None]


def test_models_that_run_and_models_without_files_have_names_too(models: Path, hub: Path) -> None:
    override = ModelOverride("echo", "worker.echo.engine:EchoEngine")
    lookup = Lookup(Catalog(models, hub, {"demo/Echo": override}), {"gone": ModelSpec("gone", "echo", "", 0)}.get)
    assert lookup.resolve("demo/echo")["model_id"] == "demo/Echo"
    assert lookup.resolve("gone")["model_id"] == "gone"


def test_a_name_that_may_be_fetched_stays_as_it_was_asked_for(macos: Catalog) -> None:
    missed = Lookup(macos, dict[str, ModelSpec]().get).load(b"l", "Org/New")
    assert isinstance(missed, ModelMissed)
    assert missed.waiting.model_id == "Org/New"
