"""The budget of real machines, and the blocks in which it is handed out."""

import pytest

from broker.policy.budget import GIB, Hardware, Origin, budget_of
from broker.policy.limits import block_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("total", "usual", "working_set", "budget", "origin"),
    [
        # Total memory of Macs in GiB; the budget before Metal has been asked; what Metal says; the budget then.
        (8, 4.0, 5.33, 4.0, Origin.TOTAL),
        (16, 10.67, 10.67, 10.67, Origin.METAL),
        (18, 12.0, 12.0, 12.0, Origin.METAL),
        (24, 16.0, 16.0, 16.0, Origin.METAL),
        (32, 21.33, 21.33, 21.33, Origin.METAL),
        (36, 24.0, 27.0, 27.0, Origin.METAL),
        (48, 36.0, 36.0, 36.0, Origin.METAL),
        (64, 48.0, 48.0, 48.0, Origin.METAL),
        (96, 72.0, 72.0, 72.0, Origin.METAL),
        (128, 96.0, 107.5, 107.5, Origin.METAL),
        (192, 144.0, 144.0, 144.0, Origin.METAL),
        (256, 192.0, 192.0, 192.0, Origin.METAL),
        (512, 384.0, 464.0, 464.0, Origin.METAL),
        # `sysctl iogpu.wired_limit_mb`, set higher than what is left beside the system, and lower than usual.
        (64, 48.0, 62.0, 56.0, Origin.TOTAL),
        (64, 48.0, 40.0, 40.0, Origin.METAL),
    ],
)
def test_real_macs(total: float, usual: float, working_set: float, budget: float, origin: Origin) -> None:
    machine = Hardware(int(total * GIB), has_metal=True)
    before, after = budget_of(machine, None), budget_of(machine, int(working_set * GIB))
    assert before.size_bytes / GIB == pytest.approx(usual, abs=0.01)
    assert after.size_bytes / GIB == pytest.approx(budget, abs=0.01)
    assert after.origin is origin
    assert before.origin is (Origin.USUAL if total > 8 else Origin.TOTAL)
    assert before.most_bytes >= before.size_bytes
    assert after.most_bytes == after.size_bytes


@pytest.mark.parametrize(
    ("total", "budget"), [(8, 4), (16, 12), (24, 18), (32, 24), (64, 56), (192, 184), (5, 1), (4, 1), (2, 1)]
)
def test_without_metal_a_quarter_between_4_and_8_gib_is_left(total: int, budget: int) -> None:
    found = budget_of(Hardware(total * GIB), None)
    assert (found.size_bytes, found.origin) == (budget * GIB, Origin.TOTAL)


@pytest.mark.parametrize("working_set", [None, 48 * GIB])
@pytest.mark.parametrize("has_metal", [True, False])
def test_a_setting_wins(working_set: int | None, *, has_metal: bool) -> None:
    found = budget_of(Hardware(64 * GIB, 60 * GIB, has_metal), working_set)
    assert (found.size_bytes, found.origin, found.most_bytes) == (60 * GIB, Origin.SETTING, 60 * GIB)


@pytest.mark.parametrize(
    ("total", "setting", "working_set", "budget", "origin"),
    [
        # An eighth of what Metal recommends is left to all else that is wired.
        (16, 0, None, 16 * 2 / 3 * 7 / 8, Origin.USUAL),
        (16, 0, 10.67, 10.67 * 7 / 8, Origin.METAL),
        (64, 0, 48, 42, Origin.METAL),
        (64, 0, 62, 62 * 7 / 8, Origin.METAL),
        (128, 0, 107.5, 107.5 * 7 / 8, Origin.METAL),
        (8, 0, 5.33, 4, Origin.TOTAL),
        (64, 60, None, 42, Origin.USUAL),
        (64, 60, 48, 42, Origin.METAL),
        (64, 20, 48, 20, Origin.SETTING),
    ],
)
def test_what_is_wired_stays_below_what_metal_recommends(
    total: float, setting: float, working_set: float | None, budget: float, origin: Origin
) -> None:
    machine = Hardware(int(total * GIB), int(setting * GIB), has_metal=True, wires=True)
    found = budget_of(machine, None if working_set is None else int(working_set * GIB))
    assert found.size_bytes / GIB == pytest.approx(budget, abs=0.01)
    assert found.origin is origin
    assert found.most_bytes >= found.size_bytes
    assert working_set is None or found.most_bytes == found.size_bytes


@pytest.mark.parametrize("setting", [0, 60 * GIB])
def test_without_metal_nothing_is_wired(setting: int) -> None:
    assert budget_of(Hardware(64 * GIB, setting, wires=True), None) == budget_of(Hardware(64 * GIB, setting), None)


@pytest.mark.parametrize(("budget", "block"), [(500, 3), (1024, 8), (4 * 1024, 32), (18 * 1024, 64), (1, 1)])
def test_blocks_follow_the_budget(budget: int, block: int) -> None:
    assert block_bytes(budget * MIB) == block * MIB
