"""Chaos with a fixed seed: forty seconds of storms, thirty of kills; see chaos.py."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.isolation.chaos import chaos_service, run_chaos
from tests.isolation.chaos_figures import check_kills

# How much a process may grow between a quarter of the run and its end, MiB: allocator noise, not a leak.
GROWTH_MIB = 8.0


@pytest.mark.timeout(600)  # ten times what it takes on a machine with nothing else to do
def test_every_request_ends_once_whatever_dies(isolation_models: Path) -> None:
    with chaos_service(isolation_models) as service:
        figures = asyncio.run(run_chaos(service, seconds=40, seed=20261122, least=34))
    assert figures.ends["answered, streamed"] > 25
    assert figures.ends["client left"] > 0
    assert sum(figures.attacks.values()) > 33
    for name, late in figures.rss_late.items():
        assert late - figures.rss_early[name] < GROWTH_MIB, f"{name} grows: {figures.rss_early} -> {figures.rss_late}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_answers_go_on_whatever_kills(isolation_models: Path) -> None:
    with chaos_service(isolation_models, kills=True) as service:
        figures = asyncio.run(run_chaos(service, seconds=30, seed=20261129, least=18, kills=True, longest=300))
    sys.stdout.write(figures.table())
    check_kills(figures)
    assert figures.answered > 50
