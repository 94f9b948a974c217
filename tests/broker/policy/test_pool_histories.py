"""Random histories of the pool: hundreds of events on a fake clock, invariants after every one (see pool_world)."""

import pytest

from broker.policy.events import TimePassed
from tests.broker.policy.pool_world import World


@pytest.mark.parametrize("block", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 8))])
def test_random_histories_keep_every_promise(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        world = World(seed)
        try:
            world.send(TimePassed())  # as the broker begins
            if seed % 3 == 0:
                world.restore_pin(world.random.choice([*world.specs, *world.absent, "gone"]))
            for _ in range(400):
                world.step()
            world.settle()
            world.close_links()
            world.shut_down()
            assert all(r.ends == 1 for r in world.requests.values())
        except AssertionError as error:
            history = "\n".join(world.log[-60:])
            raise AssertionError(f"seed {seed}: {error}\n{history}") from error
