"""Paced thoughts in virtual time: what is measured is what the router asks of its engines, not this machine."""

from __future__ import annotations

import math

import pytest

from benchmarks import virtual_time
from benchmarks.handover import GRID, PAPER, ROUTING, Paces, published, rest_of, routed
from benchmarks.schedule import schedule

STEPS = schedule(2_000, seed=1)


def test_at_the_papers_pace_hand_overs_cost_less_than_a_fourteenth() -> None:
    thought = virtual_time.run(routed(STEPS, PAPER, ROUTING))
    assert thought.efficiency >= 0.93
    assert thought.requests / thought.steps <= 2.1 * 0.27
    assert thought.reentry_cached_share >= 0.9


@pytest.mark.parametrize("paces", GRID.values(), ids=GRID)
def test_both_sides_write_the_same_thought_and_the_rest_is_told_apart(paces: Paces) -> None:
    ours, loop = virtual_time.run(routed(STEPS, paces, ROUTING)), virtual_time.run(published(STEPS, paces))
    assert ours.writing_ms == pytest.approx(loop.writing_ms)
    assert ours.steps == loop.steps == loop.requests / 2
    assert ours.wall_ms < loop.wall_ms
    rest = rest_of(ours, paces)
    assert math.fsum(rest.values()) == pytest.approx(1 - ours.efficiency)
    assert min(rest.values()) > -0.01
