"""The batch by itself: the same tokens as mlx-lm's BatchGenerator, and no unused computation."""

import ctypes
import gc
import random
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx
import psutil
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import BatchKVCache

from tests.every_family import tiny_model as tiny_family
from tests.tiny_models import make_tiny_model
from tests.worker.engine_runs import add, load, load_recorded, run
from tests.worker.stepping import MOST_STEPS, steps
from worker.generation.pace import Pace
from worker.generation.sampling import GREEDY, LogitsProcessor
from worker.text.continuous_batch import ContinuousBatch
from worker.text.engine import TextEngine
from worker.text.row_caches import extract

pytestmark = pytest.mark.exact

STREAM = mx.default_stream(mx.default_device())


@pytest.fixture(scope="module", params=[None, 8], ids=["plain", "window"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "two", layers=2, sliding_window=request.param)
    return load(folder).loaded.model


def batch(model: Any, step_size: int = 16, clock: Callable[[], float] = monotonic) -> ContinuousBatch:
    """step_size: tokens of a piece, at most."""
    return ContinuousBatch(
        model,
        stop_tokens=[],
        completion_batch_size=8,
        prefill_batch_size=4,
        pace=Pace(step_size),
        stream=STREAM,
        clock=clock,
    )


def uneven(rng: random.Random) -> Callable[[], float]:
    """A clock by which steps take from nothing to longer than any piece may take."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += rng.choice([0.0, 0.0001, 0.001, 0.02, 0.1])
        return now

    return clock


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
    generator = batch(model, step_size=64, clock=uneven(random.Random(6)))
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
        for group in (*generator._prefilling, generator._decoding):
            for layer in group.caches:
                if isinstance(layer, BatchKVCache):
                    padding = layer.left_padding.tolist()
                    assert padding == [layer.size() - len(row.tokens) for row in group.rows]
                    assert (layer.padding is None) == (not any(padding))
                for index, row in enumerate(group.rows):
                    assert_equal(extract(layer, index, len(row.tokens)), layer.extract(index))
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


def assert_equal(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for one, other in zip(ours.state, theirs.state, strict=True):
        assert (one == other).all().item() if isinstance(one, mx.array) else one == other


def test_prompts_that_keep_coming_do_not_starve_decode(model: Any) -> None:
    """Prompts that end with their first token never fill the batch: they could come first for ever."""
    generator = batch(model, step_size=4096, clock=lambda: 0.0)
    insert(generator, [5, 6, 7], 100)
    generator.next()
    generator.next()
    waited = []
    for _ in range(5):
        waited.append(0)
        while True:
            # Two of different lengths that do not fit together, so that one waits while the other begins.
            insert(generator, [8, 9, 10], 1)
            insert(generator, [8] * 60, 1)
            if any(response.finish_reason is None for response in generator.next()[1]):
                break
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


@pytest.mark.parametrize("family", ["smollm3", "lfm2"])
def test_steps_leave_nothing_behind(family: str) -> None:
    """Also in layers whose `offset` nobody reads."""
    assert_no_growth(family, 96, 640)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smollm3", "nemotron_h", "jamba", "cohere2", "exaone4"])
def test_thousands_of_steps_leave_nothing_behind(family: str) -> None:
    before, after = assert_no_growth(family, 992, 4992)
    assert after - before <= 2**20


def assert_no_growth(family: str, first: int, last: int) -> tuple[int, int]:
    """Decode two sequences for `last` steps: bytes that MLX uses beside their caches are the same after `first` ones.
    The process's bytes at both points, without the caches."""
    _, model = tiny_family(family)
    generator = batch(model, step_size=4096)
    for length in (3, 20):
        insert(generator, [7] * length, last + 100)
    steps = 0
    active, resident = [], []
    for until in (first, last):
        while steps < until:
            steps += len(generator.next()[1]) // 2
        mx.synchronize()
        gc.collect()
        mx.clear_cache()
        give_back()
        caches = sum(layer.nbytes for layer in generator._decoding.caches)
        active.append(mx.get_active_memory() - caches)
        resident.append(psutil.Process().memory_info().rss - caches)
    assert active[1] - active[0] <= 2048
    return resident[0], resident[1]


def give_back() -> None:
    """What this process has freed goes to the system, where that can be asked for."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def decoded(engine: TextEngine, lengths: list[int]) -> list[str]:
    for number, length in enumerate(lengths):
        add(engine, number, prompt="m" * length, temperature=0.0, max_tokens=12)
    return [str(output.body["text"]) for output in sorted(steps(engine), key=lambda output: output.request_id)]


class Events:
    """What the host launches and waits for, in order: `(rows, tokens)` of each call of the model; `wait` for each array
    that is read back or waited for."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []
        self._model = model
        for owner, name in ((mx.array, "tolist"), (mx.array, "item"), (mx, "eval"), (mx, "synchronize")):
            monkeypatch.setattr(owner, name, self._noted(getattr(owner, name)))

    def _noted(self, function: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            self.seen.append("wait")
            return function(*arguments)

        return noted

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        self.seen.append(tokens.shape)
        return self._model(tokens, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def of(self, generator: ContinuousBatch) -> list[Any]:
        """Those of the next step."""
        self.seen.clear()
        generator.next()
        return list(self.seen)


@pytest.mark.parametrize("window", [None, 64], ids=["plain", "window"])
@pytest.mark.parametrize("layers", [2, 7])
def test_the_host_waits_as_often_whatever_the_number_of_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, window: int | None
) -> None:
    folder = make_tiny_model(tmp_path / "model", layers=layers, sliding_window=window)
    model = load(folder).loaded.model
    events = Events(model, monkeypatch)
    ticks = count()
    generator = batch(events, step_size=4096, clock=lambda: next(ticks) * 0.005)
    insert(generator, [5, 6, 7], 100)
    assert events.of(generator) == [(1, 2), (1, 1), "wait"]
    assert events.of(generator) == [(1, 1), "wait"]
    # Two join: once for the step before, whose time it is not, and once for the first tokens, after the next step has
    # been launched, which takes five milliseconds.
    insert(generator, [8] * 9, 3)
    insert(generator, [9] * 5, 4)
    assert events.of(generator) == [(2, 8), (2, 1), "wait", (3, 1), "wait"]
    assert events.of(generator) == [(3, 1), "wait"]
    # They end, one after the other, and leave their caches.
    ends = [events.of(generator) for _ in range(3)]
    assert ends == [[(3, 1), "wait"], [(2, 1), "wait"], [(1, 1), "wait"]]
    (held,) = generator.remove([0], return_prompt_caches=True).values()
    assert len(held.cache) == layers
