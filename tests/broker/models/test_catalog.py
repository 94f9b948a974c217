"""Which models there are: names that may be asked for, folders that are models, folders that are broken."""

import os
from pathlib import Path

import pytest

from broker.models.catalog import Catalog
from broker.models.entry import CatalogError, ModelOverride
from broker.policy.specs import ModelSpec
from tests.broker.models.model_folders import make_hub_model, make_model, refusal

# ---- finding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "org/tiny", "Org-1/Tiny_2.5-4bit", "größe"])
def test_a_model_is_a_folder_one_or_two_levels_deep(catalog: Catalog, models: Path, name: str) -> None:
    folder = make_model(models / name)
    spec = catalog.find(name)
    assert (spec.model_id, spec.model_type, spec.path, spec.weight_bytes) == (name, "text-gen", str(folder), 1000)
    assert (spec.engine, spec.options, spec.keep_alive_seconds, spec.memory_limit_bytes) == (None, {}, None, None)


def test_a_model_of_the_hugging_face_cache(catalog: Catalog, hub: Path) -> None:
    snapshot = make_hub_model(hub, "org/tiny")
    spec = catalog.find("org/tiny")
    assert (spec.path, spec.weight_bytes) == (str(snapshot), 500)


def test_the_models_directory_comes_before_the_cache(catalog: Catalog, models: Path, hub: Path) -> None:
    make_hub_model(hub, "org/tiny")
    folder = make_model(models / "org" / "tiny")
    assert catalog.find("org/tiny").path == str(folder)


def test_a_cache_without_the_snapshot_that_it_names(catalog: Catalog, hub: Path) -> None:
    make_hub_model(hub, "org/tiny")
    (hub / "models--org--tiny" / "refs" / "main").write_text("ffff")
    code, message = refusal(catalog, "org/tiny")
    assert code == "model_not_found"
    assert "refs/main names the snapshot 'ffff', not in " in message
    (hub / "models--org--tiny" / "refs" / "main").write_bytes(b"\xff\xfe")
    assert refusal(catalog, "org/tiny")[0] == "model_not_found"


def test_a_cache_without_refs_main_has_its_only_snapshot(catalog: Catalog, hub: Path) -> None:
    """As `hf download --revision` leaves it."""
    snapshot = make_hub_model(hub, "org/tiny")
    (hub / "models--org--tiny" / "refs" / "main").unlink()
    assert catalog.find("org/tiny").path == str(snapshot)
    assert [entry.spec.model_id for entry in catalog.entries()] == ["org/tiny"]
    (hub / "models--org--tiny" / "refs").rmdir()
    assert catalog.find("org/tiny").path == str(snapshot)
    (snapshot.parent / "ffff").mkdir()
    with pytest.raises(CatalogError, match="2 snapshots, and no refs/main says which one to use") as error:
        catalog.find("org/tiny")
    assert (error.value.failure.code, error.value.fetchable) == ("model_not_found", True)


def test_an_unknown_name_says_which_places_were_searched(catalog: Catalog, models: Path) -> None:
    says = f"no model named 'nobody' in {models} or the Hugging Face cache"
    assert refusal(catalog, "nobody") == ("model_not_found", says)


@pytest.mark.parametrize(
    ("name", "fetchable"),
    [
        ("org/gone", True),
        ("Org-1/Gone_2.5-4bit", True),
        ("gone", False),
        ("org/größe", False),
        ("-org/gone", False),
        ("org/go--ne", False),
        ("org/go..ne", False),
        ("org/../gone", False),
    ],
)
def test_a_missing_model_may_be_fetched_if_its_name_can_be_a_repository(
    catalog: Catalog, name: str, fetchable: bool
) -> None:
    with pytest.raises(CatalogError) as error:
        catalog.find(name)
    assert error.value.fetchable is fetchable
    assert ("an administrator's load fetches it" in str(error.value)) is fetchable


def test_an_incomplete_model_may_be_fetched_in_the_cache_but_not_in_the_models_directory(
    catalog: Catalog, models: Path, hub: Path
) -> None:
    one, two, three = (f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3))
    cached = make_hub_model(hub, "org/half", {two: 10})
    make_model(models / "org" / "copied", weights={two: 10})
    says = f"lacks 2 of its weight files, such as {one!r}"
    for name, fetchable in (("org/half", True), ("org/copied", False)):
        with pytest.raises(CatalogError, match=says) as error:
            catalog.find(name)
        assert (error.value.failure.code, error.value.fetchable) == ("load_failed", fetchable)
    (cached / one).touch()
    (cached / three).touch()
    assert catalog.find("org/half").weight_bytes == 10
    for file in (one, "config.json"):
        (cached / file).unlink()
        with pytest.raises(CatalogError) as error:
            catalog.find("org/half")
        assert error.value.fetchable


def test_a_model_of_the_cache_without_a_tokenizer_may_be_fetched(catalog: Catalog, models: Path, hub: Path) -> None:
    """`hf download` writes weights and tokenizer in any order, and refs/main before them."""
    snapshot = make_hub_model(hub, "org/half")
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(CatalogError, match="has no tokenizer") as error:
        catalog.find("org/half")
    assert (error.value.failure.code, error.value.fetchable) == ("load_failed", True)
    for name in ("tokenizer.model", "vocab.json", "qwen.tiktoken", "tekken.json"):
        (snapshot / name).touch()
        assert catalog.find("org/half").model_type == "text-gen"
        (snapshot / name).unlink()
    # Of a folder the worker says what is missing, by name.
    make_model(models / "half")
    assert catalog.find("half").model_type == "text-gen"


def test_all_weight_files_count_and_adapters_do_not(catalog: Catalog, models: Path) -> None:
    shards = {f"model-0000{n}-of-00003.safetensors": 100 * n for n in (1, 2, 3)}
    others = {"model.safetensors.index.json": 7, "adapters.safetensors": 50, "tokenizer.json": 9}
    make_model(models / "sharded", weights=shards | others)
    assert catalog.find("sharded").weight_bytes == 600


def test_the_fingerprint_changes_with_the_weights_and_with_nothing_else(models: Path, hub: Path) -> None:
    folder = make_model(models / "a")
    make_model(models / "b")
    catalog = Catalog(models, hub, {"engine": ModelOverride(engine="module:Class")})
    first = catalog.find("a").fingerprint
    assert first not in ("", catalog.find("b").fingerprint)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert Catalog(models, hub, {}).find("a").fingerprint == catalog.find("a").fingerprint == first
    (folder / "model.safetensors").write_bytes(bytes(1001))
    assert catalog.find("a").fingerprint != first
    assert catalog.find("engine").fingerprint == ""


def test_a_draft_model_is_part_of_the_fingerprint(models: Path, hub: Path, tmp_path: Path) -> None:
    make_model(models / "large")
    small = make_model(tmp_path / "small")
    alone = Catalog(models, hub, {}).find("large").fingerprint
    catalog = Catalog(models, hub, {"large": ModelOverride(options={"draft_model": str(small)})})
    both = catalog.find("large").fingerprint
    (small / "model.safetensors").write_bytes(bytes(7))
    assert len({alone, both, catalog.find("large").fingerprint}) == 3


def test_a_draft_model_is_a_name_or_a_folder_and_counts(models: Path, hub: Path, tmp_path: Path) -> None:
    make_model(models / "large")
    small, snapshot = make_model(tmp_path / "small"), make_hub_model(hub, "org/small")

    def find(draft: object) -> ModelSpec:
        override = ModelOverride(options={"draft_model": draft, "num_draft_tokens": 2})
        return Catalog(models, hub, {"large": override}).find("large")

    assert (find(str(small)).options, find(str(small)).weight_bytes) == (
        {"draft_model": str(small), "num_draft_tokens": 2},
        2000,
    )
    assert (find("org/small").options["draft_model"], find("org/small").weight_bytes) == (str(snapshot), 1500)
    # Another draft of the same name is noticed, though the model itself has not changed.
    catalog = Catalog(models, hub, {"large": ModelOverride(options={"draft_model": str(small)})})
    assert catalog.find("large").weight_bytes == 2000
    (small / "model.safetensors").write_bytes(bytes(7))
    assert catalog.find("large").weight_bytes == 1007
    # What is no text is for the engine to refuse, and so is a folder without a model.
    assert find(3).options["draft_model"] == 3
    assert find("/nowhere").weight_bytes == 1000
    for absent, message in (("nobody", "no model named 'nobody'"), ("~no one/small", "home")):
        with pytest.raises(CatalogError, match=f"large: draft_model: .*{message}"):
            find(absent)


def test_what_was_read_is_kept_until_the_files_change(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "tiny")
    assert catalog.find("tiny") is catalog.find("tiny")
    (folder / "model-2.safetensors").write_bytes(bytes(11))
    os.utime(folder, ns=(1, 1))  # a coarse clock would otherwise see no change
    assert catalog.find("tiny").weight_bytes == 1011


def test_a_model_that_has_been_found_may_disappear(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "tiny")
    catalog.find("tiny")
    (folder / "config.json").unlink()
    code, message = refusal(catalog, "tiny")
    assert code == "model_not_found"
    assert str(folder / "config.json") in message


# ---- names that are refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "//", "a/", "/a", "a//b", "a/../b", "../a", "a/..", "a/.", "./a", "a/b/c"),
        *(".hidden", "a/.hidden", "a\\b", "..\\a", "a\0b", "/etc", "/etc/passwd", "org/tiny/../../secret"),
    ],
)
def test_a_name_is_never_a_path(catalog: Catalog, models: Path, name: str) -> None:
    make_model(models / "org" / "tiny")
    make_model(models / ".hidden")
    make_model(models.parent / "a")
    make_model(models.parent / "secret")
    assert refusal(catalog, name) == (
        "model_not_found",
        f"{name!r} is not a model name: one is `name` or `org/name`",
    )


@pytest.mark.parametrize(
    "name", ["x" * 300, "org/" + "x" * 300, "x" * 5000 + "/" + "y" * 5000, "a\nb", "~", "~root", "C:"]
)
def test_a_strange_name_is_only_unknown(catalog: Catalog, name: str) -> None:
    assert refusal(catalog, name)[0] == "model_not_found"


def test_an_absolute_name_is_refused_even_where_it_leads_to_a_model(catalog: Catalog, models: Path) -> None:
    folder = make_model(models.parent / "outside")
    assert refusal(catalog, str(folder))[0] == "model_not_found"


def test_a_link_may_not_leave_the_models_directory(catalog: Catalog, models: Path) -> None:
    make_model(models.parent / "outside")
    (models / "out").symlink_to("../outside")
    (models / "up").symlink_to("..")
    says = f"out is a link that leaves {models}"
    assert refusal(catalog, "out") == ("model_not_found", says)
    assert refusal(catalog, "up/outside")[0] == "model_not_found"


def test_a_link_within_the_models_directory_is_another_name(catalog: Catalog, models: Path) -> None:
    make_model(models / "tiny")
    (models / "alias").symlink_to("tiny")
    assert catalog.find("alias").weight_bytes == 1000


@pytest.mark.parametrize("target", [".", "..", "../models", "/", "loop"])
def test_a_loop_of_links_lists_nothing_twice(catalog: Catalog, models: Path, target: str) -> None:
    make_model(models / "tiny")
    make_model(models / "org" / "tiny")
    (models / "loop").symlink_to(target)
    (models / "org" / "loop").symlink_to("..")
    assert [entry.spec.model_id for entry in catalog.entries()] == ["org/tiny", "tiny"]


def test_the_models_directory_itself_may_be_a_link(tmp_path: Path, hub: Path) -> None:
    make_model(tmp_path / "disk" / "tiny")
    (tmp_path / "link").symlink_to("disk")
    assert Catalog(tmp_path / "link", hub, {}).find("tiny").weight_bytes == 1000


def test_circular_and_dangling_links(catalog: Catalog, models: Path) -> None:
    (models / "circle").symlink_to("circle")
    (models / "nowhere").symlink_to("gone")
    assert refusal(catalog, "circle")[0] == "model_not_found"
    assert refusal(catalog, "nowhere")[0] == "model_not_found"
    assert catalog.entries() == []


def test_an_unreadable_directory_hides_no_other(models: Path, hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As one on a disk that has been taken out; here its name is longer than any may be."""
    make_model(models / "mine")
    make_hub_model(hub, "org/cached")
    gone = Path("/" + "x" * 300)
    assert [entry.spec.model_id for entry in Catalog(models, gone, {}).entries()] == ["mine"]
    assert [entry.spec.model_id for entry in Catalog(gone, hub, {}).entries()] == ["org/cached"]
    assert "cannot look for models in /xxx" in caplog.text
    for name in ("a-dead-link", "zzz"):
        (models / name).symlink_to(gone)
    assert [entry.spec.model_id for entry in Catalog(models, gone, {}).entries()] == ["mine"]
    for name in ("anything", "org/anything"):
        assert refusal(Catalog(gone, gone, {}), name)[0] in ("model_not_found", "load_failed")


def test_a_snapshot_that_leads_out_of_the_cache(catalog: Catalog, models: Path, hub: Path) -> None:
    make_hub_model(hub, "org/tiny")
    make_model(models.parent / "outside")
    (hub / "models--org--tiny" / "refs" / "main").write_text("../../../outside")
    assert refusal(catalog, "org/tiny")[0] == "model_not_found"


# ---- folders that are broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{not json", "config.json cannot be read: "),
        ("", "config.json cannot be read: "),
        ("[" * 100_000, "config.json cannot be read: "),
        ("[]", "config.json is not a JSON object"),
        ("null", "config.json is not a JSON object"),
    ],
    ids=["broken", "empty", "deep", "list", "null"],
)
def test_a_broken_config_names_the_file(catalog: Catalog, models: Path, config: str, says: str) -> None:
    folder = make_model(models / "broken", config)
    code, message = refusal(catalog, "broken")
    assert code == "load_failed"
    assert message.startswith(f"{folder}/{says}")


def test_a_config_that_is_not_text(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "broken")
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x01\x02")
    assert refusal(catalog, "broken")[0] == "load_failed"


def test_a_folder_without_config_is_not_a_model(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "empty")
    (folder / "config.json").unlink()
    assert refusal(catalog, "empty")[0] == "model_not_found"
    (folder / "config.json").mkdir()
    assert refusal(catalog, "empty")[0] == "load_failed"


def test_a_folder_without_weights(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "bare", weights={"adapters.safetensors": 10, "pytorch_model.bin": 10})
    assert refusal(catalog, "bare") == ("load_failed", f"no model*.safetensors file in {folder}")


@pytest.mark.parametrize("name", ["weights.safetensors", "consolidated.safetensors"])
def test_weights_that_the_library_does_not_read(catalog: Catalog, models: Path, name: str) -> None:
    folder = make_model(models / "odd", weights={name: 10})
    assert refusal(catalog, "odd") == ("load_failed", f"no model*.safetensors file in {folder}")
    # mlx-vlm reads all but the second set of some repositories.
    make_model(models / "sees", {"model_type": "qwen2_vl", "vision_config": {}}, {name: 10, "model.safetensors": 5})
    assert catalog.find("sees").weight_bytes == (15 if name == "weights.safetensors" else 5)


def test_weights_that_are_dangling_links(catalog: Catalog, hub: Path) -> None:
    snapshot = make_hub_model(hub, "org/tiny")
    (snapshot / "model.safetensors").resolve().unlink()
    code, message = refusal(catalog, "org/tiny")
    assert code == "load_failed"
    assert message == f"{snapshot / 'model.safetensors'}: No such file or directory"
