"""Intervals against values known from elsewhere: textbooks, scipy, and the formula where there is one."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.stats import (
    Bootstrap,
    auroc,
    cluster_mean,
    median_at,
    paired_difference,
    quantile,
    ratio_of_sums,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    estimate = wilson(successes, trials)
    assert estimate.value == successes / trials
    assert estimate.low == pytest.approx(low, abs=1e-4)
    assert estimate.high == pytest.approx(high, abs=1e-4)


def test_wilson_agrees_with_scipy() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for trials in (1, 7, 60, 600):
        for successes in {0, 1, trials // 3, trials}:
            ours, theirs = wilson(successes, trials), binomtest(successes, trials).proportion_ci(method="wilson")
            assert ours.low == pytest.approx(theirs.low, abs=1e-12)
            assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_of_nothing_is_unknown() -> None:
    assert math.isnan(wilson(0, 0).value)


def test_quantiles_are_linear_between_neighbours() -> None:
    assert quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert quantile([1.0, 2.0, 4.0], 1.0) == 4.0
    assert quantile([5.0], 0.3) == 5.0


def test_bootstrap_of_a_mean_is_the_normal_interval_for_many_values() -> None:
    rng = random.Random(1)
    values = [rng.gauss(10.0, 2.0) for _ in range(400)]
    estimate = cluster_mean([[value] for value in values])
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    assert estimate.value == pytest.approx(mean)
    assert estimate.low == pytest.approx(mean - half, abs=0.03)
    assert estimate.high == pytest.approx(mean + half, abs=0.03)


def test_bootstrap_agrees_with_scipy() -> None:
    scipy_bootstrap = pytest.importorskip("scipy.stats").bootstrap
    rng = random.Random(2)
    values = [rng.expovariate(1.0) for _ in range(80)]
    ours = Bootstrap(len(values), resamples=5000).estimate(median_at(values))
    theirs = scipy_bootstrap(
        (values,), statistics.median, method="percentile", n_resamples=5000, vectorized=False, rng=3
    )
    # Medians of resamples fall on few values, here up to 0.05 apart.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.06)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.06)


def test_bootstrap_is_the_same_every_time_for_a_seed() -> None:
    values = [float(value % 7) for value in range(50)]
    first, again, other = (Bootstrap(50, seed=seed).estimate(median_at(values)) for seed in (3, 3, 4))
    assert first == again
    assert cluster_mean([[value] for value in values], seed=3) != cluster_mean([[v] for v in values], seed=4)
    assert first.value == other.value


def test_answers_to_one_question_widen_the_interval_as_one_answer() -> None:
    """Four equal samples of a question tell no more than one of them."""
    rng = random.Random(5)
    values = [float(rng.random() < 0.5) for _ in range(100)]
    assert cluster_mean([[value] * 4 for value in values]) == cluster_mean([[value] for value in values])


def test_pairing_narrows_what_both_have_in_common() -> None:
    rng = random.Random(6)
    hard = [rng.random() for _ in range(200)]
    first = [value + 0.01 for value in hard]
    estimate = paired_difference(first, hard)
    assert estimate.value == pytest.approx(0.01)
    assert estimate.high - estimate.low < 1e-9
    assert estimate.excludes_zero


def test_pairs_must_be_of_equal_number() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired_difference([1.0], [1.0, 2.0])


def test_what_is_undefined_in_many_resamples_has_a_value_but_no_interval() -> None:
    below = [0.0, 0.0, 0.0, 1.0]
    estimate = Bootstrap(4).estimate(ratio_of_sums([1.0, 1.0, 1.0, 1.0], below))
    assert estimate.value == 4.0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert not estimate.excludes_zero


def test_zero_is_not_shown_as_minus_zero() -> None:
    estimate = Bootstrap(3).estimate(lambda places: -1e-17)
    assert str(estimate.value) == str(estimate.low) == "0.0"


def test_bootstrap_needs_a_unit() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bootstrap(0)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = random.Random(7)
    held = 0
    for trial in range(200):
        values = [[float(rng.random() < 0.7)] * 2 for _ in range(60)]
        estimate = cluster_mean(values, resamples=300, seed=trial)
        held += estimate.low <= 0.7 <= estimate.high
    assert 0.89 <= held / 200 <= 0.99


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(drawn: list[tuple[int, bool]]) -> None:
    signal, positive = [float(value) for value, _ in drawn], [kind for _, kind in drawn]
    pairs = [
        (high > low) + 0.5 * (high == low)
        for high, is_positive in zip(signal, positive, strict=True) if is_positive
        for low, other in zip(signal, positive, strict=True) if not other
    ]  # fmt: skip
    found = auroc(signal, positive)
    assert math.isnan(found) if not pairs else found == pytest.approx(statistics.fmean(pairs))
