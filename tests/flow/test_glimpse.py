"""The glimpse: a truncated distribution's entropy, with bounds that hold the whole one's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.errors import EngineProtocolError
from glimprouter.flow.engine import Token
from glimprouter.flow.glimpse import entropy_of, glimpse_of

WEIGHTS = st.one_of(
    st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=60),
    # Steep and flat ones of a thousand outcomes, cheaper to draw than a thousand numbers.
    st.builds(
        lambda size, slope: [math.exp(-slope * place / size) for place in range(size)],
        st.integers(2, 1000),
        st.floats(0.0, 40.0),
    ),
)


def distribution(weights: list[float]) -> list[float]:
    """Log-probabilities, best first."""
    total = math.fsum(weights)
    return sorted((math.log(weight / total) for weight in weights), reverse=True)


def entropy(logprobs: list[float]) -> float:
    return -math.fsum(math.exp(value) * value for value in logprobs)


@given(WEIGHTS, st.data())
def test_bounds_hold_the_entropy_of_the_whole_distribution(weights: list[float], data: st.DataObject) -> None:
    logprobs = distribution(weights)
    seen = logprobs[: data.draw(st.integers(2, len(logprobs)))]
    found = entropy_of(seen, len(logprobs))
    assert found.low_nats - 1e-9 <= entropy(logprobs) <= found.high_nats + 1e-9
    assert -1e-12 <= found.entropy_nats <= math.log(len(seen)) + 1e-9
    assert found.covered == pytest.approx(math.fsum(math.exp(value) for value in seen))


@given(WEIGHTS)
def test_whole_distribution_seen_leaves_nothing_open(weights: list[float]) -> None:
    logprobs = distribution(weights)
    found = entropy_of(logprobs, len(logprobs))
    assert found.covered == pytest.approx(1.0)
    assert (found.entropy_nats, found.low_nats, found.high_nats) == pytest.approx([entropy(logprobs)] * 3, abs=1e-9)


@given(WEIGHTS, st.data())
def test_bounds_close_as_more_is_seen(weights: list[float], data: st.DataObject) -> None:
    logprobs = distribution(weights)
    fewer = data.draw(st.integers(2, len(logprobs)))
    more = data.draw(st.integers(fewer, len(logprobs)))
    wide, narrow = (entropy_of(logprobs[:seen], len(logprobs)) for seen in (fewer, more))
    assert wide.low_nats <= narrow.low_nats + 1e-9
    assert narrow.high_nats <= wide.high_nats + 1e-9


@given(WEIGHTS, st.floats(1.0, 1.02))
def test_mass_over_one_is_rounding(weights: list[float], excess: float) -> None:
    logprobs = distribution(weights)
    found = entropy_of([value + math.log(excess) for value in logprobs], len(logprobs))
    assert found.covered == pytest.approx(1.0)
    assert found.entropy_nats == pytest.approx(entropy(logprobs), abs=1e-6)


def test_entropies_of_known_distributions() -> None:
    assert entropy_of([math.log(0.5)] * 2, 2).entropy_nats == pytest.approx(math.log(2))
    assert entropy_of([0.0, -50.0], 150_000).entropy_nats == pytest.approx(0.0)
    assert entropy_of([math.log(1 / 20)] * 20, 150_000).entropy_nats == pytest.approx(math.log(20))
    # Two of four equal outcomes seen: renormalised they give ln 2, in truth it is ln 4, and both bounds know it.
    quarter = entropy_of([math.log(0.25)] * 2, 4)
    assert (quarter.entropy_nats, quarter.covered) == pytest.approx((math.log(2), 0.5))
    assert (quarter.low_nats, quarter.high_nats) == pytest.approx((math.log(4), math.log(4)))


def test_impossible_outcomes_add_nothing() -> None:
    half = math.log(0.5)
    found = entropy_of([half, half, -math.inf, -math.inf], 1000)
    assert (found.entropy_nats, found.low_nats, found.high_nats) == pytest.approx([math.log(2)] * 3)
    assert entropy_of([0.0, -9999.0], 1000).high_nats == pytest.approx(0.0)


@pytest.mark.parametrize(
    "logprobs",
    [[], [-math.inf], [-math.inf] * 20, [math.nan], [-0.1, math.nan], [math.inf], [3.0, -1.0], [-9999.0, -9999.0]],
)
def test_what_is_no_distribution_is_the_engines_fault(logprobs: list[float]) -> None:
    with pytest.raises(EngineProtocolError, match="log-probabilities"):
        entropy_of(logprobs, 1000)


def test_glimpse_names_the_token_drawn_and_keeps_what_was_seen() -> None:
    top = ((7, math.log(0.75)), (8, math.log(0.25)))
    glimpse = glimpse_of(Token(8, " Wait", top=top), 100)
    assert (glimpse.token_id, glimpse.token_text, glimpse.top) == (8, " Wait", top)
    assert glimpse.entropy_nats == pytest.approx(0.5623, abs=1e-4)


def test_two_ids_with_one_text_are_two_outcomes_and_one_id_given_twice_is_one() -> None:
    half = math.log(0.5)
    twice = Token(7, "So", top=((7, half), (8, half), (7, half)))
    once = Token(7, "So", top=((7, half), (8, half)))
    assert glimpse_of(twice, 100) == glimpse_of(once, 100)
    assert glimpse_of(twice, 100).entropy_nats == pytest.approx(math.log(2))


def test_glimpse_keeps_no_number_that_json_cannot_hold() -> None:
    glimpse = glimpse_of(Token(7, "So", top=((7, 0.0), (8, -math.inf))), 100)
    assert glimpse.top == ((7, 0.0),)


def test_token_without_log_probabilities_gives_no_glimpse() -> None:
    with pytest.raises(EngineProtocolError, match="at least 20"):
        glimpse_of(Token(7, "So"), 100)
