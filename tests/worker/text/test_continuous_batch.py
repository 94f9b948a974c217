"""The batch by itself: the same tokens as mlx-lm's BatchGenerator, and no unused computation."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import BatchKVCache

from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import MOST_STEPS, add, load, load_recorded, run, steps
from worker.generation.sampling import GREEDY, LogitsProcessor
from worker.text.continuous_batch import ContinuousBatch
from worker.text.engine import TextEngine

STREAM = mx.default_stream(mx.default_device())


@pytest.fixture(scope="module", params=[None, 8], ids=["plain", "window"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "two", layers=2, sliding_window=request.param)
    return load(folder).loaded.model


def batch(model: Any, **options: int) -> ContinuousBatch:
    sizes = {"completion_batch_size": 8, "prefill_batch_size": 4, "prefill_step_size": 16, **options}
    return ContinuousBatch(model, stop_tokens=[], stream=STREAM, **sizes)


def insert(
    generator: ContinuousBatch,
    prompt: list[int],
    most: int,
    *,
    logprobs: bool = False,
    breaks: tuple[int, ...] = (),
    processors: tuple[LogitsProcessor, ...] = (),
) -> int:
    """breaks: the places in the prompt where one segment ends and another begins, ascending."""
    return generator.insert(
        [prompt[begin:end] for begin, end in pairwise((0, *breaks, len(prompt)))],
        most,
        cache=None,
        tokens=[],
        sampler=GREEDY,
        processors=list(processors),
        wants_logprobs=logprobs,
    )


def by_the_last_two(tokens: mx.array, logits: mx.array) -> mx.array:
    """A processor whose result depends on what it is shown, and on its order."""
    last, before = tokens[-1], tokens[max(0, tokens.size - 2)]
    return mx.where(mx.arange(logits.shape[-1]) % 7 == (last + 3 * before) % 7, logits, logits - 50)


def of_mlx_lm(model: Any, prompt: list[int], most: int, processors: tuple[LogitsProcessor, ...]) -> list[int]:
    generator: Any = BatchGenerator(model, stream=STREAM)
    generator.insert([prompt], [most], logits_processors=[list(processors)])
    tokens: list[int] = []
    while len(tokens) < most:
        tokens += [response.token for response in generator.next()[1]]
    return tokens


def test_random_joins_and_removals_give_what_mlx_lm_gives(model: Any) -> None:
    """Prompts of a token, of a piece, of several, with and without breaks and processors; alone and beside others that
    begin, end and go away."""
    rng = random.Random(5)
    generator = batch(model)
    asked: dict[int, list[int]] = {}
    processors: dict[int, tuple[LogitsProcessor, ...]] = {}
    got: dict[int, list[int]] = {}
    held: dict[int, list[int]] = {}
    for number in range(MOST_STEPS):
        if number < 60 and rng.random() < 0.6:
            prompt = [rng.randrange(3, 250) for _ in range(rng.choice([1, 2, 5, 16, 17, 18, 40]))]
            breaks = tuple(sorted(rng.sample(range(1, len(prompt)), k=min(len(prompt) - 1, rng.choice([0, 0, 1, 2])))))
            chosen = rng.choice([(), (), (by_the_last_two,)])
            uid = insert(generator, prompt, rng.choice([1, 2, 9, 30]), breaks=breaks, processors=chosen)
            asked[uid], processors[uid] = prompt, chosen
        if number < 60 and rng.random() < 0.1 and any(generator.counts()):
            uid = rng.choice(sorted(asked.keys() - held))
            generator.remove([uid])
            held[uid] = []
        _, responses = generator.next()
        for response in responses:
            assert response.uid not in held
            got.setdefault(response.uid, []).append(response.token)
            if response.finish_reason is not None:
                assert response.finish_reason == "length"
                assert response.held is not None
                held[response.uid] = list(response.held.tokens)
                assert {layer.offset for layer in response.held.cache} == {len(response.held.tokens)}
        for group in (generator._prefilling, generator._decoding):
            for layer in group.caches:
                if isinstance(layer, BatchKVCache):
                    padding = layer.left_padding.tolist()
                    assert padding == [layer.size() - len(row.tokens) for row in group.rows]
                    assert (layer.padding is None) == (not any(padding))
        if number >= 60 and not any(generator.counts()):
            break
    assert len(held) == len(asked) > 20
    for uid, tokens in got.items():
        assert tokens == of_mlx_lm(model, asked[uid], len(tokens), processors[uid])
        said = [*asked[uid], *tokens]
        assert held[uid] in ([], said, said[:-1])


def test_what_is_computed(tiny_model: Path) -> None:
    """Of four sequences that begin and end together: no step of its own for their first tokens, none after the last."""
    engine, calls = load_recorded(tiny_model, prompt_cache_tokens=0)
    run(engine, [{"prompt": f"{number}abcdef", "temperature": 0.0, "max_tokens": 5} for number in range(4)])
    assert calls == [(4, 6), *[(4, 1)] * 5]


def test_log_probabilities_are_made_for_those_who_want_them(model: Any) -> None:
    generator = batch(model)
    wants, other = insert(generator, [5, 6, 7], 4, logprobs=True), insert(generator, [5, 6, 7], 6)
    rows: dict[int, list[mx.array | None]] = {wants: [], other: []}
    while any(generator.counts()):
        for response in generator.next()[1]:
            rows[response.uid].append(response.logprobs)
    assert rows[other] == [None] * 6
    for row in rows[wants]:
        assert row is not None
        assert row.shape == (259,)
        assert mx.exp(row).sum().item() == pytest.approx(1, abs=1e-5)


def test_prompts_that_keep_coming_do_not_starve_decode(model: Any) -> None:
    """Prompts that end with their first token never fill the batch: they could come first for ever."""
    generator = batch(model, prefill_step_size=4096)
    insert(generator, [5, 6, 7], 100)
    generator.next()
    generator.next()
    insert(generator, [8, 9, 10], 1)
    waited = []
    for _ in range(5):
        waited.append(0)
        while not any(response.finish_reason is None for response in generator.next()[1]):
            insert(generator, [8, 9, 10], 1)
            waited[-1] += 1
    assert waited == [8] * 5


@pytest.mark.parametrize(("prompt", "most"), [([], 5), ([1], 0)])
def test_what_could_not_end_is_refused(model: Any, prompt: list[int], most: int) -> None:
    with pytest.raises(ValueError, match="needs a prompt and room for a token"):
        insert(batch(model), prompt, most)


def test_with_and_without_padding(tiny_model: Path) -> None:
    """Sequences of one length need none; of different lengths they do, and the engine gives the same."""
    engine = load(tiny_model, prompt_cache_tokens=0)
    alone = {length: decoded(engine, [length]) for length in (4, 9)}
    assert decoded(engine, [4, 9]) == [*alone[4], *alone[9]]
    assert decoded(engine, [9, 9]) == alone[9] * 2


def decoded(engine: TextEngine, lengths: list[int]) -> list[str]:
    for number, length in enumerate(lengths):
        add(engine, number, prompt="m" * length, temperature=0.0, max_tokens=12)
    return [str(output.body["text"]) for output in sorted(steps(engine), key=lambda output: output.request_id)]
