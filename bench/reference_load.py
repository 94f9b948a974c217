"""The lower limit of a model's first answer: `python -m bench.reference_load MODEL CONTENT TOKENS [SAID]` loads the
model and answers once with mlx-lm alone, in a process whose imports are done. SAID: the beginning of the answer, which
is read like the prompt. Prints the seconds and the text as JSON.

Weights lie and the vocabulary is read as in a worker: what a worker takes beyond this is the service around the model.
"""

import json
import sys
import time
from importlib import import_module

import mlx.core as mx
from mlx_lm import load, stream_generate

from worker.loading.layout import give_back, transpose_for_blas
from worker.loading.vocabulary import vocabulary_read_once

# What mlx-lm and transformers import when they load SmolLM2.
_IMPORTED_LATER = ("mlx_lm.models.llama", "transformers.models.llama.configuration_llama", "transformers.video_utils")


def main(model: str, content: str, tokens: int, said: str = "") -> None:
    for module in _IMPORTED_LATER:
        import_module(module)
    began = time.monotonic()
    with vocabulary_read_once():
        loaded, tokenizer, *_ = load(model, lazy=True)
    transpose_for_blas(loaded, biased=False)
    mx.eval(loaded.parameters())
    give_back()
    messages = [{"role": "user", "content": content}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    prompt += tokenizer.encode(said, add_special_tokens=False)
    pieces = []
    first = 0.0
    for response in stream_generate(loaded, tokenizer, prompt, max_tokens=tokens):
        first = first or time.monotonic() - began
        pieces.append(response.text)
    print(json.dumps({"first": first, "whole": time.monotonic() - began, "text": "".join(pieces)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
