"""A model that is passed over when changes are announced has none."""

from itertools import product

from broker.policy.records import Model
from broker.policy.shown import rests, shown
from broker.policy.specs import UNLOADED, Shown
from broker.wire.states import State

NOW = 5.0
ANNOUNCED = (
    UNLOADED,
    Shown(State.UNLOADED, "keep_alive"),
    Shown(State.FAILED, "it dies"),
    Shown(State.COOLDOWN, "keep_alive"),
    Shown(State.QUEUED, "waiting for room"),
)


def test_what_rests_is_announced_as_it_is() -> None:
    resting = []
    for announced, reason, failure, restart_at, pinned in product(
        ANNOUNCED, (None, "keep_alive"), (None, "it dies"), (0.0, NOW, NOW + 1), (False, True)
    ):
        model = Model("m", pinned=pinned, restart_at=restart_at, failure=failure, last_reason=reason)
        model.announced = announced
        if rests(model, NOW):
            assert shown(model, NOW) == announced
            resting.append(announced)
    assert set(resting) == set(ANNOUNCED[:2])
