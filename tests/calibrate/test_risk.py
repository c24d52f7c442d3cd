"""The promise of accuracy: exact where it can be checked, and kept as often as it says."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glimprouter.calibrate.risk import (
    Paired,
    certified,
    p_value,
    paired,
    questions_needed,
    upper_loss,
    upper_rate,
)

CALIBRATIONS = 100
SLACK = 2.33
"""Standard deviations of a binomial: about one run in a hundred of a true promise would pass beyond."""


def test_paired_counts_who_was_right_alone() -> None:
    assert paired([True, True, False, False], [True, False, True, False]) == Paired(4, 1, 1)


@pytest.mark.parametrize(("successes", "bound"), [(0, 0.0295), (5, 0.1023), (50, 0.5864), (100, 1.0)])
def test_upper_rate_is_clopper_pearson_s(successes: int, bound: float) -> None:
    assert upper_rate(successes, 100, 0.05) == pytest.approx(bound, abs=2e-4)


def test_without_any_difference_the_bound_is_that_of_none_in_n() -> None:
    """(1 - margin)^n, and what was spent on bounding the differences."""
    assert p_value(Paired(100, 0, 0), 0.05, 0.1) == pytest.approx(0.95**100 + 0.01, abs=2e-3)


@settings(deadline=None, max_examples=40)
@example(5, 0, 4, 0.016209466684400726)
@given(st.integers(5, 150), st.integers(0, 30), st.integers(0, 30), st.floats(0.01, 0.3))
def test_more_losses_never_help(questions: int, worse: int, better: int, margin: float) -> None:
    if worse + better + 1 > questions:
        return
    before = p_value(Paired(questions, worse, better), margin, 0.1)
    assert 0.0 < before <= 1.0
    assert p_value(Paired(questions, worse + 1, better), margin, 0.1) >= before - 1e-9


def test_upper_loss_is_where_the_promise_begins_to_hold() -> None:
    seen = Paired(300, 9, 4)
    bound = upper_loss(seen, 0.1)
    assert seen.loss < bound < 0.06
    assert p_value(seen, bound + 0.002, 0.1) <= 0.1
    assert p_value(seen, bound - 0.002, 0.1) > 0.1


def test_first_failure_ends_it() -> None:
    good, bad = Paired(400, 3, 3), Paired(400, 60, 3)
    assert certified([good, good, bad, good], 0.05, 0.9) == 2
    assert certified([bad, good], 0.05, 0.9) == 0


def test_too_few_questions_are_said_to_be_too_few_and_how_many_would_do() -> None:
    seen = Paired(40, 1, 1)
    assert certified([seen], 0.05, 0.9) == 0
    needed = questions_needed(seen, 0.05, 0.9)
    assert needed is not None
    assert 60 < needed < 1000
    scale = needed / 40
    assert certified([Paired(needed, round(scale), round(scale))], 0.05, 0.9) == 1


def test_no_number_of_questions_makes_a_loss_smaller_than_it_is() -> None:
    assert questions_needed(Paired(100, 10, 1), 0.05, 0.9) is None


LOSSES = (0.0, 0.02, 0.052, 0.08, 0.15)
"""True losses of five thresholds, the safest first; the third breaks a promise of five points by a hair."""


def calibrated_loss(rng: random.Random, questions: int, *, margin: float, confidence: float) -> tuple[float, float]:
    """True loss of the threshold that one calibration chooses, and of the one a point estimate would choose."""
    candidates = []
    for loss in LOSSES:
        draws = rng.choices((1, -1, 0), weights=(0.06 + loss, 0.06, 0.88 - loss), k=questions)
        candidates.append(Paired(questions, draws.count(1), draws.count(-1)))
    passed = certified(candidates, margin, confidence)
    naive = max((place for place, seen in enumerate(candidates) if seen.loss <= margin), default=-1)
    return (LOSSES[passed - 1] if passed else 0.0), (LOSSES[naive] if naive >= 0 else 0.0)


@pytest.mark.parametrize("questions", [150, 400])
def test_promise_is_broken_no_more_often_than_stated(questions: int) -> None:
    """Over resampled calibrations, each on fresh questions. A point estimate breaks the same promise all the time."""
    margin, confidence, rng = 0.05, 0.9, random.Random(11)
    chosen = [calibrated_loss(rng, questions, margin=margin, confidence=confidence) for _ in range(CALIBRATIONS)]
    broken = sum(loss > margin for loss, _ in chosen)
    allowed = (1 - confidence) * CALIBRATIONS
    assert broken <= allowed + SLACK * (allowed * confidence) ** 0.5
    assert sum(naive > margin for _, naive in chosen) > 2 * allowed


def test_promise_is_not_empty() -> None:
    """With enough questions the thresholds that deserve it do pass."""
    rng = random.Random(5)
    chosen = [calibrated_loss(rng, 1200, margin=0.05, confidence=0.9)[0] for _ in range(30)]
    assert sum(loss == 0.02 for loss in chosen) > 20
