"""The hub's client in a process that loads from folders: not imported, and there when it is used. Each in a process."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.service import ROOT

BEGIN = """
import json, sys
from worker.hub.later import postpone_hub
from worker.loading.quick_imports import remember_import_structure
remember_import_structure()
postpone_hub()
import worker.text.engine
def imported(*names):
    return [name for name in names if type(sys.modules.get(name)).__name__ == "module"]
hub = ("huggingface_hub.hf_api", "huggingface_hub._snapshot_download", "huggingface_hub.repocard")
client = (*hub, "httpcore2", "asyncio")
"""


def result_of(code: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", BEGIN + code]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(answer.stdout)


def test_the_text_engine_comes_without_it() -> None:
    assert result_of("print(json.dumps([imported(*client), imported('mlx_lm.utils', 'huggingface_hub')]))") == [
        [],
        ["mlx_lm.utils", "huggingface_hub"],
    ]


def test_what_is_used_is_the_hubs() -> None:
    code = """
import asyncio, mlx_lm.utils, httpcore2
import transformers.utils.hub as hub
from pathlib import Path
try:
    mlx_lm.utils.snapshot_download("org/name", cache_dir="/nowhere")
except Exception as error:
    said = type(error).__module__
from huggingface_hub._commit_api import CommitOperationAdd
from huggingface_hub.hf_api import HfApi
made = hub.HfApi(library_name="x")
operation = hub.CommitOperationAdd(path_in_repo="a", path_or_fileobj=b"1")
card = hub.ModelCard("---\\nlicense: mit\\n---\\n")
print(json.dumps([
    said, type(made) is HfApi, isinstance(made, hub.HfApi), isinstance(3, hub.HfApi),
    type(operation) is CommitOperationAdd,
    card.data.license, hub.ModelCard.load.__module__, hub.ModelCardData(license="mit").license,
    httpcore2.URL("http://a/").host.decode(), asyncio.run(asyncio.sleep(0, 5)), imported(*client) == list(client),
]))
"""
    said, *found = result_of(code)
    assert said == "huggingface_hub.errors"
    assert found == [True, True, False, True, "mit", "huggingface_hub.repocard", "mit", "a", 5, True]
