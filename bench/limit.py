"""The upper limit: mlx-lm's BatchGenerator alone in a process, without logprobs, without detokenization.

`python -m bench.limit MODEL` reads one JSON line per measurement, `{"waves": [[content, ...], ...], "tokens": n}`, and
answers with one: the tokens per second of each wave (all its requests at once, from the first token to the last) and
the texts of its requests. It is idle between two lines, so that it can take turns with the servers.
"""

import json
import sys
import time
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import BatchGenerator


def main(model: str) -> None:
    loaded, tokenizer, *_ = load(model)
    generator: Any = BatchGenerator(
        loaded,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        stream=mx.default_stream(mx.default_device()),
    )

    def wave(prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        began = time.monotonic()
        uids = generator.insert(prompts, [tokens] * len(prompts))
        answers: dict[int, list[int]] = {uid: [] for uid in uids}
        left = len(prompts)
        while left:
            for response in generator.next()[1]:
                answers[response.uid].append(response.token)
                left -= response.finish_reason is not None
        seconds = time.monotonic() - began
        return sum(map(len, answers.values())) / seconds, [answers[uid] for uid in uids]

    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [
            [
                tokenizer.apply_chat_template([{"role": "user", "content": c}], add_generation_prompt=True)
                for c in contents
            ]
            for contents in asked["waves"]
        ]
        waves = [wave(contents, asked["tokens"]) for contents in prompts]
        texts = [[tokenizer.decode(answer, skip_special_tokens=True) for answer in answers] for _, answers in waves]
        print(json.dumps({"tokens_per_second": [rate for rate, _ in waves], "texts": texts}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
