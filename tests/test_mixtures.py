"""Mixtures of two: known ones are found again, and a value's component follows from where it lies."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.mixtures import Normal, TwoNormals, fit_two_normals


@pytest.mark.parametrize(("low", "high", "weight"), [(0.4, 0.9, 0.5), (0.2, 0.8, 0.2), (0.5, 0.95, 0.7)])
def test_mixture_that_was_drawn_from_is_found(low: float, high: float, weight: float) -> None:
    rng = random.Random(3)
    values = [rng.gauss(low, 0.05) if rng.random() < weight else rng.gauss(high, 0.03) for _ in range(4000)]
    found = fit_two_normals(values)
    assert found.low.mean == pytest.approx(low, abs=0.01)
    assert found.high.mean == pytest.approx(high, abs=0.01)
    assert found.low.sd == pytest.approx(0.05, abs=0.01)
    assert found.low_weight == pytest.approx(weight, abs=0.03)


@given(
    st.floats(0.0, 0.4), st.floats(0.5, 1.0), st.floats(0.01, 0.3), st.floats(0.01, 0.3), st.floats(0.0, 1.0),
    st.floats(-1.0, 2.0),
)  # fmt: skip
def test_posterior_is_a_probability_for_any_value(
    low: float, high: float, low_sd: float, high_sd: float, weight: float, value: float
) -> None:
    mixture = TwoNormals(Normal(low, low_sd), Normal(high, high_sd), weight)
    assert 0.0 <= mixture.high_posterior(value) <= 1.0


def test_values_beyond_the_means_are_of_the_nearer_component() -> None:
    # So wide is the lower one that a plain posterior would give it the most certain values of all.
    mixture = TwoNormals(Normal(0.6, 0.3), Normal(0.97, 0.01), 0.4)
    assert mixture.high_posterior(1.0) == mixture.high_posterior(0.97) > 0.9
    assert mixture.high_posterior(0.0) < 0.1


@given(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=40))
def test_any_sample_with_enough_values_has_a_mixture(values: list[float]) -> None:
    if len(set(values)) < 4:
        with pytest.raises(ValueError, match="four different"):
            fit_two_normals(values)
        return
    found = fit_two_normals(values)
    assert found.low.mean <= found.high.mean
    assert found.low.sd > 0.0
    assert found.high.sd > 0.0
    assert 0.0 <= found.low_weight <= 1.0
