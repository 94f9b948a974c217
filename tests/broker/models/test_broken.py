"""What looks like a model and cannot be used: the catalog says where it lies and why."""

import json
import os
import sys
from pathlib import Path

import pytest

from broker.models.catalog import Catalog
from broker.models.entry import BrokenEntry, ModelOverride
from tests.broker.models.model_folders import LLAMA, make_hub_model, make_model


def broken(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Model id -> path and reason."""
    return {entry.model_id: (entry.path, entry.reason) for entry in catalog.broken()}


def test_nothing_is_broken_in_a_machine_with_good_models(catalog: Catalog, models: Path, hub: Path) -> None:
    make_model(models / "tiny")
    make_model(models / "org" / "tiny")
    make_hub_model(hub, "org/other")
    (models / "notes").mkdir()
    (models / "notes" / "read.me").write_text("no model")
    assert catalog.broken() == []
    assert len(catalog.entries()) == 3


def test_each_has_its_reason_and_its_place(catalog: Catalog, models: Path, hub: Path) -> None:
    half = make_model(models / "half", weights={"model-00001-of-00002.safetensors": 10})
    make_model(models / "org" / "empty", weights={})
    make_model(models / "torn", config="{")
    make_model(models / "new", config=LLAMA | {"model_type": "marsupial"})
    make_hub_model(hub, "org/cut")
    (hub / "models--org--cut" / "refs" / "main").write_text("ffff")
    make_model(models / "good")
    found = broken(catalog)
    assert sorted(found) == ["half", "new", "org/cut", "org/empty", "torn"]
    assert found["half"] == (
        str(half),
        f"{half} lacks 1 of its weight files, such as 'model-00002-of-00002.safetensors'",
    )
    assert "architecture 'marsupial', unknown" in found["new"][1]
    assert "no model*.safetensors file in" in found["org/empty"][1]
    assert "config.json" in found["torn"][1]
    path, reason = found["org/cut"]
    assert path == str(hub / "models--org--cut")
    assert "refs/main names the snapshot 'ffff'" in reason


def test_weights_without_a_config_are_told(catalog: Catalog, models: Path) -> None:
    for name in ("alone", "org/alone"):
        (models / name).mkdir(parents=True)
        (models / name / "model.gguf").write_bytes(b"GGUF")
    make_model(models / "good")
    (models / "good" / "original").mkdir()
    (models / "good" / "original" / "consolidated.pth").write_bytes(b"1")  # belongs to a model
    found = broken(catalog)
    assert sorted(found) == ["alone", "org/alone"]
    assert found["alone"] == (str(models / "alone"), f"{models / 'alone'} has no config.json")


def test_parts_of_a_sentence_transformer_are_not_told(catalog: Catalog, models: Path) -> None:
    bert = {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512}
    folder = make_model(models / "minilm", config=bert)
    (folder / "modules.json").write_text("[]")
    make_model(folder / "1_Pooling", config={"word_embedding_dimension": 8}, weights={})
    assert broken(catalog).keys() <= {"minilm"}
    assert "minilm/1_Pooling" not in broken(catalog)


def test_the_codec_of_a_model_that_speaks_is_not_told(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "speaks", config={"model_type": "qwen3_tts"})
    make_model(folder / "speech_tokenizer", config={"model_type": "qwen3_tts_tokenizer_12hz"})
    assert broken(catalog) == {}
    assert [entry.spec.model_id for entry in catalog.entries()] == ["speaks"]


def test_a_codec_that_could_run_by_itself_is_no_model(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "speaks", config={"model_type": "csm"})
    whisper = make_model(folder / "codec", config={"model_type": "whisper"})
    (whisper / "tokenizer.json").write_text("{}")
    assert [entry.spec.model_id for entry in catalog.entries()] == ["speaks"]
    assert catalog.broken() == []
    (folder / "model.safetensors").unlink()  # a part all the same
    assert catalog.entries() == []
    assert broken(catalog).keys() == {"speaks"}


def test_a_model_in_the_folder_of_a_text_model_is_told(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "text")
    make_model(folder / "good")
    make_model(folder / "old", config={"model_type": "marsupial"})
    assert [entry.spec.model_id for entry in catalog.entries()] == ["text", "text/good"]
    assert broken(catalog).keys() == {"text/old"}
    (folder / "config.json").write_text("{")
    assert broken(catalog).keys() == {"text", "text/old"}


def test_a_link_out_of_the_folder_and_a_draft_that_is_gone(models: Path, hub: Path, tmp_path: Path) -> None:
    outside = make_model(tmp_path / "outside")
    models.mkdir(exist_ok=True)
    (models / "link").symlink_to(outside)
    make_model(models / "drafted")
    catalog = Catalog(models, hub, {"drafted": ModelOverride(options={"draft_model": "org/gone"})})
    found = broken(catalog)
    assert "is a link that leaves" in found["link"][1]
    assert "draft_model" in found["drafted"][1]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no file names that are not UTF-8")
def test_names_that_no_terminal_shows_are_escaped(catalog: Catalog, models: Path) -> None:
    make_model(models / "bell\x07\x1b[31m")
    os.makedirs(os.fsencode(models) + b"/\xff")  # noqa: PTH103 # a name that is not UTF-8
    (models / os.fsdecode(b"\xff") / "config.json").write_text(json.dumps(LLAMA))
    entries = catalog.broken()
    assert [entry.model_id for entry in entries] == ["\\udcff", "bell\\x07\\x1b[31m"]
    assert {entry.reason for entry in entries} == {"its name is not printable text"}
    for entry in entries:
        assert all(text.isprintable() for text in (entry.model_id, entry.path, entry.reason))
        json.dumps([entry.path, entry.reason]).encode()


def test_a_name_with_markup_stays_as_it_is(catalog: Catalog, models: Path) -> None:
    make_model(models / "<img src=x onerror=alert(1)>", weights={})
    [entry] = catalog.broken()
    assert isinstance(entry, BrokenEntry)
    assert entry.model_id == "<img src=x onerror=alert(1)>"


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "models", tmp_path / "hub", {})
    assert catalog.broken() == []
    assert catalog.folders == (tmp_path / "models", tmp_path / "hub")
