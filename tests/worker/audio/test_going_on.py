"""Transcripts that go on in another process, cut behind each of their outputs."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.packing import pack_map, unpack_map
from tests.tiny_audio import HESITANT, make_tiny_moonshine, make_tiny_whisper, write_sound
from tests.worker.audio.transcription_runs import load, streamed
from worker.audio.transcription import TranscriptionEngine


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TranscriptionEngine]:
    top = tmp_path_factory.mktemp("going-on")
    folders = (
        make_tiny_whisper(top / "steady"),
        make_tiny_whisper(top / "hesitant", **HESITANT),
        make_tiny_moonshine(top / "moonshine"),
    )
    return {folder.name: load(folder) for folder in folders}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("steady", {"prompt": "a name"}),
        ("steady", {"words": True}),
        ("hesitant", {}),
        pytest.param("moonshine", {}, marks=pytest.mark.slow),
    ],
)
def test_a_cut_transcript_is_the_same(
    engines: dict[str, TranscriptionEngine], tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    engine, file = engines[name], write_sound(tmp_path / "a.wav", 35)
    partials, final = streamed(engine, file, **fields)
    assert len(partials) > 1
    for number, partial in enumerate(partials):
        # As it travels.
        place = unpack_map(pack_map(partial["place"]), "place")
        more, end = streamed(engine, file, **fields, begun=place)
        assert without_place([*partials[: number + 1], *more]) == without_place(partials)
        assert end == final


def without_place(partials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in partial.items() if name != "place"} for partial in partials]
