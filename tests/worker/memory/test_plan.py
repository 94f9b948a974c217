"""What a process may do with its share: properties of the plan, for any costs and any sequences."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as some

from worker.memory.cost import STEP, CacheCost, LayerCost, WorkCost, merged
from worker.memory.plan import LEAST_PIECE, MemoryPlan, Wish, block_of

MIB = 2**20

layers = some.builds(
    LayerCost,
    some.integers(0, 10_000),
    some.integers(0, 10_000),
    some.one_of(some.none(), some.integers(16, 4096)),
)
costs = some.builds(CacheCost, some.lists(layers, max_size=4).map(tuple))
works = some.builds(
    WorkCost, some.integers(0, 10_000), some.floats(0, 100), some.floats(0, 100), some.integers(0, 100_000)
)
lengths = some.lists(some.integers(1, 50_000), max_size=8)
plans = some.builds(
    lambda cost, work, fixed, padded, held: MemoryPlan(
        cost, work, fixed, padded, 8, 2048, lengths={bytes([i]): n for i, n in enumerate(held)}
    ),
    costs,
    works,
    some.integers(0, 100 * MIB),
    some.booleans(),
    lengths,
)


@given(some.lists(layers, max_size=6), some.integers(1, 100_000))
def test_merged_layers_cost_the_same(several: list[LayerCost], tokens: int) -> None:
    assert sum(one.bytes(tokens) for one in merged(several)) == sum(one.bytes(tokens) for one in several)


@given(costs, some.integers(1, 100_000), some.integers(0, 1000))
def test_a_longer_sequence_never_costs_less(cost: CacheCost, tokens: int, more: int) -> None:
    assert cost.bytes(tokens) <= cost.bytes(tokens + more)


def test_a_window_bounds_a_layer_and_the_step_of_allocation_counts() -> None:
    assert LayerCost(0, 10).bytes(1000) == 10 * (1000 + STEP)
    assert LayerCost(7, 10, 512).bytes(100_000) == 7 + 10 * 512


def test_a_quantised_cache_costs_as_much_as_before_at_first() -> None:
    cost = CacheCost((LayerCost(0, 16),), (LayerCost(0, 4),), quantised_from=1000)
    assert cost.bytes(1000) == 16 * (1000 + STEP)
    assert cost.bytes(1001) == 16 * (1000 + STEP)  # both are there while one becomes the other
    assert cost.bytes(100_000) == 4 * (100_000 + STEP)


@given(costs, lengths)
def test_padding_never_makes_sequences_cheaper(cost: CacheCost, several: list[int]) -> None:
    assert cost.together(several, padded=True) >= cost.together(several, padded=False)


@given(plans, some.integers(1, 50_000), some.integers(1, 500 * MIB))
def test_what_is_admitted_fits_into_the_share(plan: MemoryPlan, length: int, share: int) -> None:
    plan = replace(plan, share=share, is_bounded=True)
    if plan.fits(length):
        plan.lengths = {**plan.lengths, b"new": length}
        assert plan.needed() <= share
        assert plan.needed() + (plan.prompt_room() or 0) <= share


@given(plans, some.integers(1, 50_000), some.integers(1, 500 * MIB))
def test_the_longest_sequence_fits_and_no_longer_one(plan: MemoryPlan, most: int, limit: int) -> None:
    plan = replace(plan, limit=limit)
    longest = plan.longest(most)
    assert longest == 0 or plan.can_ever_fit(longest)
    assert longest == most or not plan.can_ever_fit(longest + 1)


@given(plans, some.integers(1, 50_000), some.integers(1, 500 * MIB))
def test_what_can_ever_fit_is_admitted_once_it_is_alone_with_the_largest_share(
    plan: MemoryPlan, length: int, limit: int
) -> None:
    plan = replace(plan, limit=limit, share=limit, is_bounded=True, lengths={})
    assert plan.can_ever_fit(length) == plan.fits(length)


@given(plans, some.lists(some.integers(1, 50_000), max_size=5), some.integers(1, 500 * MIB), some.integers(0, MIB))
def test_a_wish_has_room_for_all_that_waits_within_the_limit(
    plan: MemoryPlan, waiting: list[int], limit: int, prompts: int
) -> None:
    plan = replace(plan, limit=limit, share=limit, is_bounded=True)
    wish = plan.wish(prompts, waiting)
    assert wish.least == plan.needed() <= wish.wanted
    assert wish.wanted <= max(limit, wish.least)
    more = tuple(waiting[: max(0, plan.most_rows - len(plan.lengths))])
    if wish.wanted < limit:
        assert wish.wanted >= plan.needed(more) + prompts + plan.block
    modest = plan.wish(prompts, waiting, is_modest=True)
    assert modest.wanted <= wish.wanted


@given(plans, some.integers(1, 500 * MIB), some.integers(0, 10 * MIB))
def test_a_step_has_what_the_sequences_and_the_prompt_cache_leave(plan: MemoryPlan, share: int, prompts: int) -> None:
    plan = replace(plan, share=share, is_bounded=True)
    piece = plan.piece(prompts)
    assert LEAST_PIECE <= piece <= plan.step_tokens
    if piece > LEAST_PIECE and plan.lengths:
        held = list(plan.lengths.values())
        taken = plan.fixed + prompts + plan.cost.together(held, padded=plan.padded)
        work = plan.work.bytes(piece, max(held), len(held)) + piece * plan.cost.per_window_token
        assert taken + work <= share


def test_no_share_means_no_bound() -> None:
    plan = MemoryPlan(
        CacheCost((LayerCost(0, 10**9),)), WorkCost(10**9), 10**12, padded=True, most_rows=1, step_tokens=1
    )
    assert plan.fits(10**6)
    assert plan.can_ever_fit(10**6)
    assert plan.prompt_room() is None


def test_more_is_wanted_at_once_and_less_is_given_back_in_blocks() -> None:
    plan = MemoryPlan(
        CacheCost(()), WorkCost(), 10 * MIB, False, 8, 2048, is_bounded=True, share=100 * MIB, limit=64 * MIB
    )
    block = block_of(64 * MIB)
    assert block == MIB
    told = Wish(100 * MIB, 10 * MIB)
    assert plan.is_news(Wish(101 * MIB, 10 * MIB), told)
    assert not plan.is_news(Wish(101 * MIB, 10 * MIB), Wish(101 * MIB, 10 * MIB))
    assert not plan.is_news(Wish(99 * MIB, 10 * MIB), told)
    assert plan.is_news(Wish(98 * MIB, 10 * MIB), told)
    assert not plan.is_news(Wish(100 * MIB, 11 * MIB), told)
    assert plan.is_news(Wish(100 * MIB, 12 * MIB), told)
    assert plan.is_news(Wish(100 * MIB, 10 * MIB), None)
