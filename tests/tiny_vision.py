"""Makes tiny random models that see (Qwen2-VL, Qwen3-VL, by classes of mlx-vlm, in float32), and pictures for them.

The tokenizer is that of the tiny text models, a byte is a token, and four more for pictures. A picture of 16 by 16
pixels is 4 tokens, one of 32 by 16 is 8. The weights of the eye are small where its input is not, so that a picture
changes the answer and does not drown the text.

Must not be used to judge quality, and downloads nothing.
"""

import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models import qwen2_vl, qwen3_vl
from PIL import Image

from tests.tiny_models import BOS, EOS, VOCABULARY, write_tokenizer

PICTURE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SIGHTED_VOCABULARY = VOCABULARY + len(PICTURE_TOKENS)
IMAGE_TOKEN = VOCABULARY + 2
PATCH = 4
LARGEST_PIXELS = 64 * 64

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "[{{ message['role'] }}] "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ suffix or '' }} {% endif %}"
)


def make_tiny_vision(
    folder: Path,
    *,
    family: str = "qwen2_vl",
    seed: int = 0,
    context_length: int = 8192,
    chat_template: str = CHAT_TEMPLATE,
    more_tokens: tuple[str, ...] = (),
) -> Path:
    """Write a model into `folder` (made if missing) and return it. family: qwen2_vl or qwen3_vl; more_tokens: that
    follow those for pictures, at most as likely as the end of the text."""
    vocabulary = SIGHTED_VOCABULARY + len(more_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    eye = {
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "max_position_embeddings": context_length,
        "rope_theta": 10_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "tie_word_embeddings": False,
    }
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": vocabulary,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "vision_start_token_id": VOCABULARY,
        "vision_end_token_id": VOCABULARY + 1,
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": VOCABULARY + 3,
        "torch_dtype": "float32",
    }
    if family == "qwen2_vl":
        vision = {**eye, "model_type": family, "depth": 2, "embed_dim": 32, "mlp_ratio": 2}
        config |= {**text, "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": vision}
        settings = _settings(qwen2_vl, text_config={**text, "model_type": family}, **config)
    else:
        # Its eye speaks to several layers of the text: the features of `deepstack`.
        deepstack = {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        sizes = {"intermediate_size": 64, "out_hidden_size": 32}
        config["architectures"] = ["Qwen3VLForConditionalGeneration"]
        config["vision_config"] = {**eye, **deepstack, **sizes, "model_type": family}
        config["text_config"] = {**text, "num_hidden_layers": 3, "head_dim": 8, "model_type": "qwen3_vl_text"}
        settings = _settings(qwen3_vl, **config)
    model: Any = (qwen2_vl if family == "qwen2_vl" else qwen3_vl).Model(settings)
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))
    weights = tree_map_with_path(lambda path, weight: _random_weight(path, weight, next(keys)), model.parameters())
    head = weights["language_model"]["lm_head"]["weight"] * 4.0
    # So that generations run on: neither the end of the text nor a picture is ever likely.
    head[EOS:] = 0.0
    weights["language_model"]["lm_head"]["weight"] = head
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, context_length, chat_template, (*PICTURE_TOKENS, *more_tokens))
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor" if family == "qwen2_vl" else "Qwen3VLProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 8 * 8,
        "max_pixels": LARGEST_PIXELS,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _settings(module: Any, *, text_config: dict[str, Any], vision_config: dict[str, Any], **config: Any) -> Any:
    return module.ModelConfig(
        text_config=module.TextConfig.from_dict(text_config),
        vision_config=module.VisionConfig.from_dict(vision_config),
        **{name: value for name, value in config.items() if name in module.ModelConfig.__dataclass_fields__},
    )


def _random_weight(path: str, weight: mx.array, key: mx.array) -> mx.array:
    if weight.ndim == 1:
        return mx.zeros_like(weight) if path.endswith("bias") else mx.ones_like(weight)
    return mx.random.normal(weight.shape, scale=float(weight[0].size) ** -0.5, key=key)


def picture(number: int = 0, *, width: int = 16, height: int = 16, format_: str = "PNG", mode: str = "RGB") -> bytes:
    """A small file; another number makes another picture."""
    image = Image.new("RGB", (width, height))
    spots = ((x, y) for y in range(height) for x in range(width))
    image.putdata([((x * 37 + number * 91) % 256, y * 13 % 256, number * 53 % 256) for x, y in spots])
    file = io.BytesIO()
    image.convert(mode).save(file, format_)
    return file.getvalue()
