"""The model that the doctor writes without MLX is one that mlx-lm loads."""

from pathlib import Path

from mlx_lm import load, stream_generate

from cli.doctor import subject
from cli.doctor.tiny_model import write_tiny_model
from demo.model import MODEL_ID


def test_it_loads_and_goes_on_and_on(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny", seed=1)
    model, tokenizer = load(str(tmp_path / "tiny"))[:2]
    words = "Grüße, 世界\n"
    assert tokenizer.decode(tokenizer.encode(words, add_special_tokens=False)) == words
    assert len(tokenizer.encode(words, add_special_tokens=False)) == len(words.encode())
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False)
    assert chat == "[user] a\n[assistant] "
    tokens = [answer.token for answer in stream_generate(model, tokenizer, chat, max_tokens=300)]
    assert len(tokens) == 300


def test_two_seeds_are_two_models(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        write_tiny_model(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == c
    assert a != b


def test_the_demo_model_has_this_name() -> None:
    assert subject.DEMO == MODEL_ID
