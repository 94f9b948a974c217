"""Real chat templates, about 70 families, from the source archive of a package that collects them (MIT).

The archive has 77 MB. Each template gets a tokenizer of its own: each byte is a token, and so is each control token
that the template writes.
"""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import load
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.downloaded import fetch
from worker.loading.model_folder import tokenizer_settings

_PACKAGE = "llama-cpp-python==0.3.36"
ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"
_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_TEMPLATES = "/vendor/llama.cpp/models/templates/"

_BOS, _EOS = "<s>", "</s>"
_CONTROL = re.compile(
    r"<\|[^<>|\s'\"]{1,40}\|?>|<[^<>|\s'\"]{1,40}\|>|<\uff5c[^<>\uff5c\s]{1,40}\uff5c>|\[/?[A-Z_]{3,30}\]"
    r"|</?(?:think|seed:think|mm:think|think:opensource|tool_call|longcat_tool_call|minimax:tool_call)>"
    r"|<(?:start|end)_function_call>"
)


def templates() -> dict[str, str]:
    """Name -> the template's text."""
    found: dict[str, str] = {}
    with tarfile.open(fetch(_PACKAGE, ARCHIVE, _SHA256, "--no-binary", "llama-cpp-python")) as archive:
        for member in archive:
            if _TEMPLATES in member.name and member.name.endswith(".jinja"):
                file = archive.extractfile(member)
                assert file is not None
                found[Path(member.name).stem] = file.read().decode()
    return dict(sorted(found.items()))


def tokenizer_for(template: str, folder: Path) -> Any:
    """mlx-lm's TokenizerWrapper with this template, loaded from `folder`, which is filled first."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _bytes_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (_BOS, _EOS)])
    control = dict.fromkeys(_CONTROL.findall(template))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BOS,
        "eos_token": _EOS,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load(folder, tokenizer_settings(None))


def _bytes_tokenizer() -> Tokenizer:
    alphabet = {char: byte for byte, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
