"""Contracts of huggingface_hub: see docs/upstream.md."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported, though not in the checker's eyes
    WeakFileLock,
    build_hf_headers,
)

from tests.hub import LFS_BYTES, serving
from worker.hub.later import NAMES


def test_huggingface_http_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a file is asked for by range and written to the given file, in pieces of DOWNLOAD_CHUNK_SIZE."""
    source = tmp_path / "org" / "model.safetensors"
    source.parent.mkdir()
    content = bytes(range(256)) * (LFS_BYTES // 128)
    source.write_bytes(content)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    pieces: list[int] = []

    class Recorder:
        def __init__(self) -> None:
            self.data = bytearray(content[:1000])

        def write(self, data: bytes) -> int:
            pieces.append(len(data))
            self.data += data
            return len(data)

        def tell(self) -> int:
            return len(self.data)

    file = Recorder()
    with serving({"org/name": source.parent}) as hub:
        url = f"{hub.url}/org/name/resolve/main/model.safetensors"
        file_download.http_get(
            url,
            file,  # type: ignore[arg-type] # the parts of a file that it needs
            resume_size=1000,
            headers=build_hf_headers(),
            expected_size=len(content),
        )
        assert hub.ranges() == ["bytes=1000-"]
    assert bytes(file.data) == content
    assert max(pieces) <= 1 << 14


def test_huggingface_cache_layout(tmp_path: Path) -> None:
    """The folder of a repository, and a lock that a second taker waits for."""
    assert file_download.repo_folder_name(repo_id="org/name", repo_type="model") == "models--org--name"
    with (
        WeakFileLock(tmp_path / "lock"),
        pytest.raises(Exception, match="lock"),
        WeakFileLock(tmp_path / "lock", timeout=0.1),
    ):
        pass


def test_huggingface_names() -> None:
    """The package finds them by name, and what it finds is called by its own name."""
    for name in NAMES:
        assert huggingface_hub.__getattr__(name).__name__ == name
