"""From a wanted figure to a threshold, although routing moves what it was read from."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.calibrate.search import Search, above_share, threshold_at

Run = Callable[[float], tuple[float, list[float]]]


def world(drift: float, *, atoms: int = 0) -> Run:
    """Answers whose later signals grow by `drift` once large has written; the figure is the share of steps."""
    rng = random.Random(3)
    base = [[rng.expovariate(2.0) for _ in range(10)] for _ in range(60)]
    if atoms:
        base = [[round(value * atoms) / atoms for value in one] for one in base]

    def run(threshold: float) -> tuple[float, list[float]]:
        seen, large = list[float](), 0
        for answer in base:
            moved = 1.0
            for value in answer:
                seen.append(value * moved)
                if seen[-1] > threshold:
                    large, moved = large + 1, 1.0 + drift
        return large / len(seen), seen

    return run


def searched(run: Run, target: float, *, at_most: bool = False) -> Search:
    figure, values = run(math.inf)
    search = Search(target, figure, at_most=at_most)
    search.take(math.inf, figure, values)
    while (threshold := search.next_threshold()) is not None:
        search.take(threshold, *run(threshold))
    return search


@pytest.mark.parametrize("target", [0.1, 0.25, 0.4, 0.7])
@pytest.mark.parametrize("drift", [0.0, 0.5, -0.5])
def test_share_settles_although_routing_moves_the_signals(target: float, drift: float) -> None:
    search = searched(world(drift), target)
    nearest = search.nearest()
    assert nearest is not None
    assert search.settled
    assert search.figure(nearest) == pytest.approx(target, abs=0.015)
    assert search.rounds <= 4


def test_a_ratio_is_found_whose_ends_are_not_nought_and_one() -> None:
    shares = world(0.3)

    def ratio(threshold: float) -> tuple[float, list[float]]:
        share, values = shares(threshold)
        return 0.6 + 0.5 * share**0.8, values

    search = searched(ratio, 0.8, at_most=True)
    nearest = search.nearest()
    assert nearest is not None
    assert 0.77 <= search.figure(nearest) <= 0.81


def test_a_share_that_jumps_is_said_to_have_jumped() -> None:
    search = searched(world(0.0, atoms=1), 0.27)
    assert not search.settled
    assert search.nearest() is not None


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_no_cut_between_values_is_nearer_to_the_share(values: list[float], share: float) -> None:
    got = abs(above_share(values, threshold_at(values, share)) - share)
    nearest = min(abs(above_share(values, cut) - share) for cut in [*values, -1.0])
    ties = sum(abs(a - b) < 1e-3 * max(1.0, a) for a in values for b in values) - len(values)
    assert got <= nearest + (ties + 1) / len(values) + 1e-9
