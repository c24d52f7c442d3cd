"""Signals: each rises with doubt, none breaks on a glimpse that an engine may give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.config import Routing
from glimprouter.engines.scripted import Line, ScriptedEngine, distribution
from glimprouter.errors import ConfigError
from glimprouter.flow.engine import Token
from glimprouter.flow.glimpse import Glimpse, glimpse_of
from glimprouter.flow.quantiles import grid_of, rank
from glimprouter.flow.request import ask
from glimprouter.flow.signals import SIGNALS, TOKEN_CLASSES, Signal, class_scale, signal_named, token_class
from glimprouter.router import Router

logprobs = st.lists(st.floats(-30.0, 0.0), min_size=2, max_size=30)


def glimpse(values: list[float], text: str = "So", further: tuple[float, ...] = ()) -> Glimpse:
    total = math.log(math.fsum(math.exp(value) for value in values))
    seen = glimpse_of(Token(0, text, None, tuple(enumerate(value - total for value in values))), 1000)
    return Glimpse(
        seen.entropy_nats, seen.low_nats, seen.high_nats, seen.covered, seen.token_id, text, seen.top, further
    )


def every_signal() -> list[Signal]:
    scale = class_scale([glimpse([0.0, -value / 10], text) for value in range(40) for text in ("So", "7", "x", "-")])
    return [signal_named(name, scale) for name in SIGNALS]


ALL = every_signal()


@given(logprobs, st.sampled_from(["So", "7", "-", "\\[", "Compute", ""]), st.lists(st.floats(0.0, 9.0), max_size=3))
def test_every_signal_is_a_number_from_zero_up(values: list[float], text: str, further: list[float]) -> None:
    seen = glimpse(values, text, tuple(further))
    for signal in ALL:
        assert 0.0 <= signal.measure(seen) < math.inf, signal.name


@given(st.integers(2, 30))
def test_certainty_reads_nothing_and_an_even_choice_reads_high(outcomes: int) -> None:
    certain, even = glimpse([0.0] + [-200.0] * outcomes), glimpse([0.0] * outcomes)
    for signal in ALL:
        if signal.name == "varentropy":  # all ways alike: nothing to tell apart
            assert signal.measure(even) == pytest.approx(0.0, abs=1e-9)
        else:
            assert signal.measure(even) > signal.measure(certain)
    for name in ("entropy", "margin", "top1", "varentropy", "mean-entropy-2"):
        assert signal_named(name).measure(certain) == pytest.approx(0.0, abs=1e-9)


@given(st.floats(0.01, 2.9), st.floats(0.01, 2.9))
def test_signals_of_one_shape_are_ordered_as_its_entropies(first_nats: float, second_nats: float) -> None:
    """Where two distributions differ in how peaked they are alone, all but varentropy agree which is in doubt."""
    low, high = (
        glimpse([logprob for _, logprob in distribution(0, nats, 20)]) for nats in sorted((first_nats, second_nats))
    )
    for signal in ALL:
        if signal.name != "varentropy":
            assert signal.measure(low) <= signal.measure(high) + 1e-9, signal.name


@given(logprobs, st.randoms())
def test_order_of_the_tokens_seen_changes_nothing(values: list[float], rng: object) -> None:
    mixed_up = values.copy()
    rng.shuffle(mixed_up)  # type: ignore[attr-defined]
    for signal in ALL:
        assert signal.measure(glimpse(values)) == pytest.approx(signal.measure(glimpse(mixed_up)), abs=1e-9)


def test_mean_entropy_looks_at_so_many_tokens_and_makes_do_with_fewer() -> None:
    two, three = signal_named("mean-entropy-2"), signal_named("mean-entropy-3")
    assert (two.tokens, three.tokens) == (2, 3)
    seen = Glimpse(1.0, 1.0, 1.0, 1.0, 0, "So", (), (0.5, 0.3))
    assert two.measure(seen) == pytest.approx(0.75)
    assert three.measure(seen) == pytest.approx(0.6)
    assert three.measure(Glimpse(1.0, 1.0, 1.0, 1.0, 0, "So", ())) == 1.0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1", "digit"), (" 12", "digit"), ("-", "format"), ("\\[", "format"), ("**", "format"), ("", "format"),
        ("So", "connective"), (" wait", "connective"), ("However", "connective"), ("Compute", "other"), ("答", "other"),
    ],
)  # fmt: skip
def test_first_tokens_fall_into_classes(text: str, kind: str) -> None:
    assert token_class(text) == kind


@given(st.text())
def test_any_text_has_a_class(text: str) -> None:
    assert token_class(text) in TOKEN_CLASSES


def test_class_entropy_takes_out_what_the_class_alone_explains() -> None:
    """Connectives that always read high and digits that always read low rank alike, each in the middle of its own."""
    seen = [glimpse([0.0, -value / 50], "So") for value in range(100)]
    seen += [glimpse([0.0, -5 - value / 50], "7") for value in range(100)]
    measure = signal_named("class-entropy", class_scale(seen)).measure
    assert measure(glimpse([0.0, -1.0], "So")) == pytest.approx(0.5, abs=0.03)
    assert measure(glimpse([0.0, -6.0], "7")) == pytest.approx(0.5, abs=0.03)


def test_class_seen_too_rarely_is_measured_among_all() -> None:
    scale = class_scale([glimpse([0.0, -value / 10], "So") for value in range(40)])
    assert scale.classes.keys() == {"connective"}
    assert 0.0 <= scale.rank(glimpse([0.0, -1.0], "7")) <= 1.0


def test_class_entropy_without_a_calibration_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match="glimprouter calibrate --signal class-entropy"):
        signal_named("class-entropy")


def test_unknown_signal_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="accepted: entropy, margin") as raised:
        signal_named("perplexity")
    assert raised.value.field == "signal"


async def test_tokens_read_further_are_the_beginning_of_the_step_that_small_keeps() -> None:
    small = ScriptedEngine([Line("Add two and two now.\n\n", 0.4), Line("So x is four then.\n\n", 1.9)], answer="4")
    large = ScriptedEngine([Line("Add 2 and 2 at once.\n\n"), Line("Thus it is 4, no less.\n\n")], answer="4")
    routing = Routing(signal="mean-entropy-3", threshold=0.5)
    trace = await Router(small, large).answer(ask("2+2?", routing=routing))
    first, second = trace.steps[0], trace.steps[1]
    assert first.author == "small"
    assert first.text == "Add two and two now.\n\n"
    assert first.glimpse is not None
    assert len(first.glimpse.next_nats) == 2
    assert second.author == "large", "the mean of 1.9 and two times 0.05 nats is above 0.5"
    plain = await Router(small, large).answer(ask("2+2?", routing=Routing(threshold=0.5)))
    assert trace.small.new_tokens == plain.small.new_tokens
    assert trace.small.discarded_tokens == plain.small.discarded_tokens + 2


async def test_a_look_further_stops_at_the_end_of_a_paragraph() -> None:
    small = ScriptedEngine([Line("Yes.\n\n", 0.3), Line("So we go on then.\n\n", 0.2)], answer="4")
    trace = await Router(small, small).answer(
        ask("2+2?", routing=Routing(signal="mean-entropy-3", threshold=9.0, min_step_tokens=0))
    )
    assert [step.text for step in trace.steps[:2]] == ["Yes.\n\n", "So we go on then.\n\n"]
    assert trace.steps[0].glimpse is not None
    assert len(trace.steps[0].glimpse.next_nats) == 1


async def test_a_signal_without_a_threshold_of_its_own_is_refused() -> None:
    engine = ScriptedEngine(["Look.\n\n"])
    with pytest.raises(ConfigError, match="give a threshold too"):
        await Router(engine, engine).answer(ask("2+2?", routing=Routing(signal="margin")))


values = st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200)


@given(values, st.floats(-1.0, 6.0), st.floats(-1.0, 6.0))
def test_rank_rises_from_nought_to_one(seen: list[float], first: float, second: float) -> None:
    grid = grid_of(seen)
    assert list(grid) == sorted(grid)
    assert min(seen) <= grid[0] <= grid[-1] <= max(seen)
    low, high = sorted((first, second))
    assert 0.0 <= rank(grid, low) <= rank(grid, high) <= 1.0


@given(st.lists(st.floats(0.0, 5.0), min_size=80, max_size=200, unique=True))
def test_rank_is_near_the_share_of_values_below(seen: list[float]) -> None:
    grid = grid_of(seen)
    for value in seen[:20]:
        assert rank(grid, value) == pytest.approx(sum(other < value for other in seen) / len(seen), abs=0.05)
