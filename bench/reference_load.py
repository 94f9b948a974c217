"""The lower limit of a model's first answer: `python -m bench.reference_load MODEL CONTENT TOKENS [SAID]` loads the
model and answers once with mlx-lm alone, in a process whose imports are done. SAID: the beginning of the answer, which
is read like the prompt. Prints the seconds and the text as JSON."""

import json
import sys
import time

from mlx_lm import load, stream_generate


def main(model: str, content: str, tokens: int, said: str = "") -> None:
    began = time.monotonic()
    loaded, tokenizer, *_ = load(model)
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
