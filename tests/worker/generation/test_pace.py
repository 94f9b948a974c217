"""The budget of prefill against machines that are a formula: no clock, no model."""

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from worker.generation.choice import Choice, Part, choose
from worker.generation.pace import ALONE_SECONDS, Pace

MOST_STEPS = 200_000


class Machine(NamedTuple):
    """Seconds: of a step of decode, of a piece of prompts at least, of each of its tokens, and of each token for each
    one that precedes it."""

    decode: float
    piece: float
    token: float
    pair: float = 0.0

    def seconds(self, tokens: int, context: int, rows: int = 1) -> float:
        return max(self.piece, tokens * (self.token + self.pair * (context + tokens / rows / 2)))


MACHINES = {
    "a random Llama on two cores": Machine(0.002, 0.002, 2e-4, 4.1e-7),
    "9B on an M1 Max": Machine(0.03, 0.03, 1 / 252),
    "9B on an M1": Machine(0.06, 0.06, 1 / 63),
    "8B on a fast GPU": Machine(0.016, 0.016, 1 / 2000, 2e-8),
    "a slow step of decode": Machine(0.15, 0.05, 1e-3),
    "32K of context": Machine(0.03, 0.03, 1e-3, 1e-7),
}


@dataclass(eq=False)
class Prompt:
    arrives: float
    tokens: int
    done: int = 0
    ttft: float | None = None


@dataclass
class Run:
    """What has happened. steps: seconds of each step; gaps: between the steps of decode of a stream that is there from
    the beginning; pieces: tokens of each piece, with the prompts that it is of."""

    now: float = 0.0
    steps: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    pieces: list[tuple[int, list[int]]] = field(default_factory=list)
    decode_seconds: float = 0.0


def serve(pace: Pace, machine: Machine, prompts: list[Prompt], *, streams: bool, room: int = 8) -> Run:
    """Until all prompts have their first token. They arrive together, after all that the pace has seen."""
    run = Run(now=prompts[0].arrives)
    begun: list[list[Prompt]] = []
    waiting = list(prompts)
    decoding, last = streams, run.now
    for step in range(100 if streams else 0):
        pace.decoded(run.now - (99 - step) * machine.decode)
    for _ in range(MOST_STEPS):
        if not (begun or waiting):
            return run
        parts = [Part(len(g), max(p.tokens - p.done for p in g), max(p.done for p in g)) for g in begun]
        choice = choose(pace, parts, [Part(1, p.tokens, 0) for p in waiting], room=room, now=run.now, beside=decoding)
        began = run.now
        if choice is None:
            assert decoding
            run.now += machine.decode
            run.decode_seconds += machine.decode
            run.gaps.append(run.now - last)
            last = run.now
            pace.decoded(run.now)
        else:
            group = chosen(choice, begun, waiting)
            piece = max(min(choice.tokens, p.tokens - p.done) for p in group)
            context = max(p.done for p in group)
            seconds = machine.seconds(piece * len(group), context, len(group))
            run.pieces.append((piece * len(group), [prompts.index(p) for p in group]))
            run.now += seconds
            pace.prefilled(piece * len(group), context, began, seconds, beside=decoding, in_whole=choice.in_whole)
            for prompt in group:
                prompt.done = min(prompt.tokens, prompt.done + piece)
                if prompt.done == prompt.tokens:
                    prompt.ttft = run.now - prompt.arrives
            left = [p for p in group if p.ttft is None]
            begun = [kept for one in begun if (kept := left if one is group else one)]
            decoding |= len(left) < len(group)
        run.steps.append(run.now - began)
    raise AssertionError("prompts never end")


def chosen(choice: Choice, begun: list[list[Prompt]], waiting: list[Prompt]) -> list[Prompt]:
    if choice.begun is not None:
        return begun[choice.begun]
    group = [waiting[index] for index in choice.newcomers]
    for index in reversed(choice.newcomers):
        del waiting[index]
    begun.append(group)
    return group


def warm(machine: Machine, most: int = 2048) -> Pace:
    """After a prompt of 40 tokens and one of 1,000."""
    pace = Pace(most)
    serve(pace, machine, [Prompt(-100.0, 40)], streams=False)
    serve(pace, machine, [Prompt(-90.0, 1000)], streams=False)
    return pace


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def test_streams_go_on_while_a_long_prompt_is_read(machine: Machine) -> None:
    alone = Prompt(0.0, 6000)
    run = serve(warm(machine), machine, [alone], streams=False)
    assert max(run.steps) <= 0.5
    beside = Prompt(0.0, 6000)
    run = serve(warm(machine), machine, [beside], streams=True)
    assert alone.ttft is not None
    assert beside.ttft is not None
    assert beside.ttft <= 2.2 * alone.ttft
    assert run.decode_seconds / run.now >= 0.4
    assert max(run.gaps) <= 0.3


def test_eight_short_prompts_begin_together(machine: Machine) -> None:
    pace = warm(machine)
    each = int(0.07 / machine.token / 8)
    run = serve(pace, machine, [Prompt(0.0, each) for _ in range(8)], streams=True)
    assert [prompts for _, prompts in run.pieces] == [list(range(8))]


def test_the_first_prompts_of_a_process_begin_together() -> None:
    run = serve(Pace(2048), MACHINES["8B on a fast GPU"], [Prompt(0.0, 8) for _ in range(8)], streams=False)
    assert [prompts for _, prompts in run.pieces] == [list(range(8))]


@pytest.mark.parametrize("streams", [False, True])
def test_nothing_that_was_measured_for_few_tokens_keeps_pieces_small(streams: bool) -> None:
    """A piece has costs of its own, which a few tokens seem to have."""
    machine = Machine(0.016, 0.02, 1e-4)
    pace = Pace(2048)
    for _ in range(5):
        serve(pace, machine, [Prompt(-60.0, 1)], streams=False)
    run = serve(pace, machine, [Prompt(0.0, 20_000)], streams=streams)
    assert max(tokens for tokens, _ in run.pieces) >= 0.8 * (1300 if streams else 2048)
    assert len(run.pieces) <= (24 if streams else 14)


def test_pieces_grow_where_each_token_costs_more_than_the_one_before() -> None:
    pace = warm(MACHINES["a random Llama on two cores"])
    assert pace.tokens(0, 0.2) > 400


def test_one_slow_measurement_is_forgotten() -> None:
    machine = MACHINES["8B on a fast GPU"]
    pace = warm(machine)
    pace.prefilled(100, 0, -1.0, 5.0, beside=False, in_whole=False)
    run = serve(pace, machine, [Prompt(0.0, 6000)], streams=False)
    assert max(tokens for tokens, _ in run.pieces) >= 500


def test_a_machine_that_becomes_slower_is_noticed_with_the_next_piece() -> None:
    pace = warm(MACHINES["8B on a fast GPU"])
    run = serve(pace, MACHINES["9B on an M1 Max"], [Prompt(0.0, 6000)], streams=True)
    assert sorted(run.gaps)[-2] <= 0.3


def test_a_context_that_is_there_already_costs_more() -> None:
    """A prompt whose beginning is in the cache: what was measured without it says too little."""
    machine = MACHINES["32K of context"]
    tokens = warm(machine).tokens(30_000, 0.15)
    assert machine.seconds(tokens, 30_000) <= 0.25


def test_one_token_that_takes_longer_is_a_piece() -> None:
    machine = Machine(0.5, 0.5, 1.0)
    run = serve(Pace(2048), machine, [Prompt(0.0, 70)], streams=False)
    assert run.pieces[1:] == [(1, [0])] * 6
    run = serve(warm(machine), machine, [Prompt(0.0, 20)], streams=True)
    assert run.pieces == [(1, [0])] * 20
    assert run.decode_seconds / run.now >= 0.4


def test_short_prompts_do_not_wait_for_long_ones_nor_stop_them() -> None:
    """252 tokens a second, five prompts of 32,000 tokens; every few seconds a short one comes."""
    machine = MACHINES["9B on an M1 Max"]
    pace = warm(machine)
    long = [Prompt(0.0, 3200) for _ in range(5)]
    run = serve(pace, machine, long, streams=True)
    assert max(run.steps) <= 0.3
    assert max(run.gaps) <= 0.3
    ttfts = [prompt.ttft for prompt in long]
    assert ttfts == sorted(ttfts, key=lambda ttft: ttft or 0)  # one after the other: the first does not wait for all
    now = run.now
    both = [Prompt(now, 3200), *(Prompt(now, 8) for _ in range(3)), Prompt(now, 30)]
    serve(pace, machine, both, streams=True)
    assert all((prompt.ttft or 9) <= 0.5 for prompt in both[1:])


def test_short_prompts_that_keep_coming_leave_half_of_the_time_to_a_long_one() -> None:
    machine = MACHINES["9B on an M1 Max"]
    pace = warm(machine)
    run = serve(pace, machine, [Prompt(0.0, 600), *(Prompt(0.0, 20) for _ in range(400))], streams=True, room=1)
    places = [index for index, (_, prompts) in enumerate(run.pieces) if prompts == [0]]
    assert places[-1] < len(run.pieces) / 2


def test_steps_of_prefill_in_a_row_are_few() -> None:
    pace = warm(Machine(0.001, 0.0005, 1e-6))
    began = 0.0
    for _ in range(8):
        assert pace.turn(began, beside=True).left > 0
        pace.prefilled(30, 0, began, 0.0005, beside=True, in_whole=True)
        began += 0.0005
    assert pace.turn(began, beside=True).left == 0
    pace.decoded(began)
    assert pace.turn(began, beside=True).left > 0


def test_a_piece_waits_for_a_step_of_decode_however_late_it_is() -> None:
    pace = warm(MACHINES["9B on an M1"])
    pace.prefilled(10, 0, 0.0, 0.1, beside=True, in_whole=False)
    assert not pace.turn(1000.0, beside=True).has_piece
    pace.decoded(0.12)
    assert not pace.turn(0.1 + 0.109, beside=True).has_piece
    assert pace.turn(0.1 + 0.111, beside=True).has_piece


@pytest.mark.parametrize("context", [0, 8192, 32_768, 131_072])
def test_scores_that_are_kept_stay_below_a_quarter_of_a_gibibyte(context: int) -> None:
    pace = Pace(2048, score_bytes=128)
    for tokens in (200, 1600, 12_800):
        pace.prefilled(tokens, context, 0.0, 1e-6, beside=False, in_whole=True)
    most = pace.tokens(context, ALONE_SECONDS)
    assert most * (context + most) * 128 <= 2**28 < (most + 1) * (context + most + 1) * 128


def test_no_more_than_is_set(machine: Machine) -> None:
    run = serve(warm(machine, 16), machine, [Prompt(0.0, 200) for _ in range(4)], streams=False)
    assert max(tokens for tokens, _ in run.pieces) <= 16
