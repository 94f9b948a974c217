"""Whether attention keeps its scores, from a model's configuration."""

from types import SimpleNamespace
from typing import Any

import pytest

from worker.generation.scores import score_bytes


@pytest.mark.parametrize(
    ("args", "heads", "is_fused"),
    [
        ({"num_attention_heads": 32, "hidden_size": 4096}, 32, True),
        ({"num_attention_heads": 32, "head_dim": 128, "hidden_size": 2560}, 32, True),
        ({"num_attention_heads": 16, "head_dim": 256, "hidden_size": 2560}, 16, False),
        ({"num_attention_heads": 8, "hidden_size": 1536}, 8, False),
        ({"num_attention_heads": 128, "qk_nope_head_dim": 128, "v_head_dim": 192}, 128, False),
        ({"text_config": {"num_attention_heads": 8, "head_dim": 256}}, 8, False),
        ({"text_config": {"num_attention_heads": 8, "head_dim": 64}}, 8, True),
        ({}, 32, False),
        (None, 32, False),
    ],
)
def test_bytes_of_scores(args: Any, heads: int, is_fused: bool) -> None:
    fields = None if args is None else SimpleNamespace(**args)
    assert score_bytes(fields, is_metal=True) == (0 if is_fused else heads * 4)
    assert score_bytes(fields, is_metal=False) == heads * 4  # only Metal has such kernels
