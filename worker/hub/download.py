"""Downloads one repository of the Hugging Face hub into the normal cache, in a process that does nothing else.

huggingface_hub does the work, except that it discards the remains of an interrupted download. So the weights (files in
LFS) are fetched with its `http_get` into `blobs/<etag>.incomplete`, where the next attempt resumes them. Afterwards
`snapshot_download` finds them in the cache and fetches the small files. `refs/main`, by which a model is found, is
written last: an incomplete model is never taken for a complete one.

The only file that imports huggingface_hub. Fetches no code and no pickles, and runs nothing that it fetches.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from glob import escape
from pathlib import Path, PurePosixPath
from time import monotonic

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported, though not in the checker's eyes
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
)

from broker.wire.failure import Code, Failure, FailureError, named_line, one_line

# Called with the bytes that are there, and with all bytes: at least once a second while any arrive.
Report = Callable[[int, int], None]

_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken"})
# Of models that hear or speak: how they scale what they hear, their configuration and their voices, as arrays alone.
_AUDIO_SUFFIXES = frozenset({".mvn", ".yaml"})
_VOICES = "voices.npz"
# The most that a kill loses, and the step of progress; huggingface_hub's own 10 MiB take long on a slow line.
_CHUNK_BYTES = 1 << 20


def download(repository: str, cache_dir: Path, report: Report) -> None:
    """Fetch the files of `org/name` that a model needs, and resume partial ones. Raises FailureError: model_not_found,
    load_failed or model_unavailable."""
    disable_progress_bars()
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
    try:
        _download(repository, cache_dir, report)
    except FailureError:
        raise
    except OfflineModeIsEnabled as error:
        raise FailureError(
            Failure(Code.MODEL_UNAVAILABLE, "HF_HUB_OFFLINE is set: the hub must not be asked")
        ) from error
    except GatedRepoError as error:
        message = f"{repository} is gated: accept its conditions on its page, and set HF_TOKEN of that account"
        raise FailureError(Failure(Code.MODEL_NOT_FOUND, message)) from error
    except RepositoryNotFoundError as error:
        message = (
            f"{constants.ENDPOINT} has no repository {repository}, or it is private and HF_TOKEN does not give access"
        )
        raise FailureError(Failure(Code.MODEL_NOT_FOUND, message)) from error
    except HfHubHTTPError as error:
        raise FailureError(
            Failure(Code.MODEL_UNAVAILABLE, f"{constants.ENDPOINT} answered: {one_line(error)}")
        ) from error
    except OSError as error:
        raise FailureError(Failure(Code.MODEL_UNAVAILABLE, one_line(error))) from error
    except Exception as error:
        # Exceptions of huggingface_hub's HTTP client, whichever it is.
        message = f"asking {constants.ENDPOINT}: {named_line(error)}"
        raise FailureError(Failure(Code.MODEL_UNAVAILABLE, message)) from error


def _download(repository: str, cache_dir: Path, report: Report) -> None:
    info = HfApi().model_info(repository, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    assert info.sha is not None
    files = _needed(repository, info.siblings or [])
    folder = cache_dir / repo_folder_name(repo_id=repository, repo_type="model")
    blobs, locks = folder / "blobs", cache_dir / ".locks" / folder.name
    for made in (blobs, locks):
        made.mkdir(parents=True, exist_ok=True)

    progress = _Progress(sum(file.size or 0 for file in files), report)
    missing = progress.total - sum(_bytes_of(blobs, file) for file in files)
    free = shutil.disk_usage(blobs).free
    if missing > free:
        message = f"it needs {missing / 2**30:.2f} GiB more, but {cache_dir} has {free / 2**30:.2f} GiB free"
        raise FailureError(Failure(Code.MODEL_UNAVAILABLE, message))

    for file in files:
        if file.lfs is not None:
            with WeakFileLock(locks / f"{_etag(file)}.lock"):
                url = hf_hub_url(repository, file.rfilename, revision=info.sha)
                _fetch(url, blobs / _etag(file), file.lfs.size, progress)
            progress.finish(file.lfs.size)

    names = [file.rfilename for file in files]
    patterns = [escape(name) for name in names]
    snapshot = Path(snapshot_download(repository, revision=info.sha, cache_dir=cache_dir, allow_patterns=patterns))
    if absent := [name for name in names if not (snapshot / name).exists()]:
        raise FailureError(Failure(Code.MODEL_UNAVAILABLE, f"the hub did not send {', '.join(absent)}"))
    _point_main_at(folder, info.sha)
    report(progress.total, progress.total)


def _etag(file: RepoSibling) -> str:
    """The name of this file's content in the cache. Raises FailureError for an invalid one."""
    etag = file.lfs.sha256 if file.lfs is not None else file.blob_id
    if etag is None or not re.fullmatch("[0-9a-f]{40,64}", etag):
        raise FailureError(
            Failure(Code.MODEL_UNAVAILABLE, f"{constants.ENDPOINT} gives {file.rfilename} the hash {etag!r}")
        )
    return etag


def _needed(repository: str, siblings: list[RepoSibling]) -> list[RepoSibling]:
    """The files from which a model is loaded, smallest first. Raises FailureError if this is not a model."""
    names = {sibling.rfilename for sibling in siblings}
    if "config.json" not in names:
        raise FailureError(
            Failure(Code.LOAD_FAILED, f"{repository} has no config.json: it is not a model that can be loaded")
        )
    if not any(PurePosixPath(name).match("*.safetensors") and "/" not in name for name in names):
        raise FailureError(
            Failure(Code.LOAD_FAILED, f"{repository} has no .safetensors file: only such weights are loaded")
        )
    has_model = any(name.startswith("model") and name.endswith(".safetensors") for name in names)

    def is_needed(name: str) -> bool:
        # Some repositories hold the same weights a second time, in their trainer's format.
        second = name.startswith("original/") or (has_model and name.startswith("consolidated"))
        return (PurePosixPath(name).suffix in _SUFFIXES | _AUDIO_SUFFIXES or name == _VOICES) and not second

    return sorted((s for s in siblings if is_needed(s.rfilename)), key=lambda s: s.size or 0)


def _bytes_of(blobs: Path, file: RepoSibling) -> int:
    """How much of this file is in the cache."""
    blob = blobs / _etag(file)
    sizes = [path.stat().st_size for path in (blob, _partial(blob)) if path.exists()]
    return min(max(sizes, default=0), file.size or 0)


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _fetch(url: str, blob: Path, size: int, progress: "_Progress") -> None:
    """Fetch one file into the cache, and resume an earlier attempt. Raises FailureError if its hash is wrong."""
    if blob.exists():
        return
    partial = _partial(blob)
    if partial.exists() and partial.stat().st_size > size:
        partial.unlink()
    with _Appended(partial, progress.at) as file:
        http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=size)
    if _sha256(partial) != blob.name:
        partial.unlink()
        message = (
            f"{url} has a wrong hash: it differs from the hub's, or this disk is damaged. It is removed: load it again"
        )
        raise FailureError(Failure(Code.MODEL_UNAVAILABLE, message))
    partial.replace(blob)


class _Appended(io.BufferedWriter):
    """Appends to a file, and reports its size after every write."""

    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._tell_size = tell

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override] # narrower than Buffer
        written = super().write(data)
        self._tell_size(self.tell())
        return written


class _Progress:
    """Reports the bytes: at every percent, and every second in which some arrive."""

    def __init__(self, total: int, report: Report) -> None:
        self.total = total
        self._report = report
        self._finished = 0
        self._tell(0)

    def at(self, size: int) -> None:
        """The current file has `size` bytes."""
        done = min(self._finished + size, self.total)
        if done >= self._told + self.total / 100 or monotonic() >= self._told_at + 1.0:
            self._tell(done)

    def finish(self, size: int) -> None:
        """The current file is complete, the next one begins."""
        self._finished += size
        self.at(0)

    def _tell(self, done: int) -> None:
        self._told, self._told_at = done, monotonic()
        self._report(done, self.total)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point_main_at(folder: Path, revision: str) -> None:
    """As huggingface_hub does, but atomically: a reader sees the old revision or the new one."""
    ref = folder / "refs" / "main"
    ref.parent.mkdir(exist_ok=True)
    fresh = ref.with_name(f"main.{revision}")
    fresh.write_text(revision)
    fresh.replace(ref)
