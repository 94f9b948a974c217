"""Makes a tiny random Gemma 3n that hears and does not see, because what it sees with has one size.

Its tokenizer is that of the tiny text models, a byte is a token. A sound is 188 tokens, however long it is.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.utils import apply_generation_config_defaults, update_module_configs

from tests.every_vision_family import tiny_config
from tests.tiny_hearing import CHAT_TEMPLATE, random_weight
from tests.tiny_models import EOS, VOCABULARY, write_tokenizer

# Tokens of pictures come first, then those of sounds; the last of each is what silence and blanks look like.
_SEEN, _HEARD = VOCABULARY, VOCABULARY + 4
_MARKS = ("<|image|>", "<|image>", "<image|>", "<blank>", "<|audio|>", "<|audio>", "<audio|>", "<silence>")
_NAMES = ("image_token", "boi_token", "eoi_token", None, "audio_token", "boa_token", "eoa_token", None)
_SIZE = VOCABULARY + len(_MARKS)


def make_tiny_gemma3n(folder: Path) -> Any:
    """Write all but the weights into `folder` (made if missing); the model, as mlx-vlm's load_model makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    module: Any = import_module("mlx_vlm.models.gemma3n")
    config = tiny_config(module, "gemma3n")
    config |= {"eos_token_id": EOS, "vocab_size": _SIZE, "image_token_id": _SEEN, "audio_token_id": _HEARD}
    config["text_config"] |= {"vocab_size": _SIZE}
    config["vision_config"] |= {"vocab_size": 4, "vocab_offset": _SEEN}
    config["audio_config"] |= {"vocab_size": 4, "vocab_offset": _HEARD, "input_feat_size": 128}
    config["audio_config"] |= {"conf_num_hidden_layers": 2, "conf_num_attention_heads": 4}
    config["audio_config"] |= {"sscp_conv_channel_size": [8, 4], "conf_positional_bias_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, 8192, CHAT_TEMPLATE, _MARKS)
    path = folder / "tokenizer_config.json"
    named = {name: mark for name, mark in zip(_NAMES, _MARKS, strict=True) if name is not None}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_special_tokens": named}))
    processor = {"processor_class": "Gemma3nProcessor", "feature_extractor_type": "Gemma3nAudioFeatureExtractor"}
    processor |= {"image_processor_type": "SiglipImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    given = json.loads(json.dumps(config))
    made = update_module_configs(module.ModelConfig.from_dict(given), module, given, ["text", "vision", "audio"])
    model = module.Model(apply_generation_config_defaults(made, config))
    model.vision_tower = None  # before its weights are computed
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    model.update(tree_map_with_path(lambda path, weight: random_weight(path, weight, next(keys)), model.parameters()))
    model.eval()
    return model
