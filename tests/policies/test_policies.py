"""Policies, driven as the generators they are: what they ask, what they are told, what they decide."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.config import Routing, Sampling, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.moves import Move, Plan, Probe, Write
from glimprouter.flow.trace import ModelUsage, Step, Trace
from glimprouter.policies import PLAIN, check_policy, make_policy


def trace_of(*steps: Step) -> Trace:
    return Trace(
        id="a", created_unix_s=0.0, policy="", answer_by="large", sampling=Sampling(), messages=[],
        small=ModelUsage(), large=ModelUsage(), steps=list(steps),
    )  # fmt: skip


def trace_with(steps: int) -> Trace:
    return trace_of(*(Step(index=index, author="small") for index in range(steps)))


def glimpse_of(entropy_nats: float) -> Glimpse:
    return Glimpse(entropy_nats, entropy_nats, entropy_nats, 1.0, 0, "So", ((0, 0.0),))


def verdict(plan: Plan, *glimpses: Glimpse) -> tuple[Side, list[Move]]:
    """Answer every move with the next glimpse; who is to write, and what was asked. Fails where more is asked."""
    asked: list[Move] = []
    answers = iter(glimpses)
    try:
        move = next(plan)
        while True:
            asked.append(move)
            move = plan.send(next(answers))
    except StopIteration as stop:
        written: Write = stop.value
        return written.who, asked


@settings(deadline=None)
@given(st.floats(0.0, 12.0), st.floats(0.0, 12.0))
def test_large_writes_exactly_where_entropy_is_above_the_threshold(entropy_nats: float, threshold: float) -> None:
    policy = make_policy(Routing(), threshold_nats=threshold, seed=0)
    who, asked = verdict(policy.plan(trace_with(3)), glimpse_of(entropy_nats))
    assert who == ("large" if entropy_nats > threshold else "small")
    assert asked == [Probe("small")]


def test_entropy_at_the_threshold_stays_with_small() -> None:
    policy = make_policy(Routing(), threshold_nats=0.9, seed=0)
    assert verdict(policy.plan(trace_with(0)), glimpse_of(0.9))[0] == "small"
    assert verdict(policy.plan(trace_with(0)), glimpse_of(0.9 + 1e-12))[0] == "large"


def test_loop_escalates_without_a_glimpse_and_only_while_it_lasts() -> None:
    policy = make_policy(Routing(), threshold_nats=0.9, seed=0)
    caught = Step(index=0, author="small", loop_cycle_steps=2)
    assert verdict(policy.plan(trace_of(caught))) == ("large", [])
    assert verdict(policy.plan(trace_of(caught, Step(index=1, author="large"))), glimpse_of(0.1))[0] == "small"


@pytest.mark.parametrize("who", ["small", "large"])
def test_fixed_policy_asks_nothing(who: str) -> None:
    policy = make_policy(Routing(policy=who), threshold_nats=0.9, seed=0)
    assert [verdict(policy.plan(trace_with(steps))) for steps in range(3)] == [(who, [])] * 3


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("first", [1, 3])
def test_first_steps_go_to_large_unseen_and_then_the_policy_decides(name: str, first: int) -> None:
    plain = make_policy(Routing(policy=name), threshold_nats=0.9, seed=5)
    policy = make_policy(Routing(policy=name, first_large_steps=first), threshold_nats=0.9, seed=5)
    assert [verdict(policy.plan(trace_with(steps))) for steps in range(first)] == [("large", [])] * first
    for steps in range(first, first + 20):
        trace = trace_with(steps)
        assert verdict(policy.plan(trace), glimpse_of(0.5)) == verdict(plain.plan(trace), glimpse_of(0.5))


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 300))
def test_random_draw_depends_on_seed_and_step_number_alone(seed: int, steps: int) -> None:
    routing = Routing(policy="random", random_p=0.5)
    one, other = (make_policy(routing, threshold_nats=threshold, seed=seed) for threshold in (0.1, 2.0))
    assert verdict(one.plan(trace_with(steps))) == verdict(other.plan(trace_with(steps)))


@pytest.mark.parametrize("p", [0.0, 0.25, 0.6, 1.0])
def test_random_sends_its_share_of_steps_to_large(p: float) -> None:
    plans = [
        make_policy(Routing(policy="random", random_p=p), threshold_nats=0.9, seed=seed).plan(trace_with(steps))
        for seed in range(100)
        for steps in range(40)
    ]
    large = sum(verdict(plan)[0] == "large" for plan in plans)
    # Four standard deviations of 4,000 draws; the draws are the same every time.
    assert abs(large - 4000 * p) <= 4 * (4000 * p * (1 - p)) ** 0.5


def test_random_draws_differ_between_seeds_and_between_steps() -> None:
    def row(seed: int) -> list[Side]:
        policy = make_policy(Routing(policy="random"), threshold_nats=0.9, seed=seed)
        return [verdict(policy.plan(trace_with(steps)))[0] for steps in range(32)]

    assert len({tuple(row(seed)) for seed in range(8)}) == 8
    assert set(row(0)) == {"small", "large"}


@pytest.mark.parametrize("name", ["", "Glimpse", "entropy"])
def test_unknown_policy_is_refused_with_the_accepted_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="glimpse, small, large, random") as raised:
        check_policy(name)
    assert raised.value.field == "policy"


def test_policy_describes_itself_with_its_parameters() -> None:
    routing = Routing(policy="random", random_p=0.25, first_large_steps=2)
    assert (
        make_policy(routing, threshold_nats=0.9, seed=7).describe()
        == "random(p=0.25, seed=7) after first_large_steps=2"
    )
    assert make_policy(Routing(), threshold_nats=0.9, seed=0).describe() == "glimpse(threshold=0.9)"
    assert [make_policy(Routing(policy=who), threshold_nats=0.9, seed=0).describe() for who in ("small", "large")] == [
        "small",
        "large",
    ]


@pytest.mark.parametrize(
    ("routing", "authors"),
    [
        (Routing(), {"small", "large"}),
        (Routing(policy="random"), {"small", "large"}),
        (Routing(policy="small"), {"small"}),
        (Routing(policy="large"), {"large"}),
        (Routing(policy="small", first_large_steps=1), {"small", "large"}),
        (Routing(policy="large", first_large_steps=1), {"large"}),
    ],
)
def test_policy_names_the_models_it_may_let_write(routing: Routing, authors: set[Side]) -> None:
    assert set(make_policy(routing, threshold_nats=0.9, seed=0).authors) == authors


def test_model_that_took_over_stays_for_its_number_of_steps_without_a_glimpse() -> None:
    policy = make_policy(Routing(small_min_stay_steps=2, large_min_stay_steps=3), threshold_nats=0.9, seed=0)

    def written(*authors: Side) -> Trace:
        return trace_of(*(Step(index=index, author=author) for index, author in enumerate(authors)))

    assert verdict(policy.plan(written("small", "large"))) == ("large", [])
    assert verdict(policy.plan(written("small", "large", "large"))) == ("large", [])
    assert verdict(policy.plan(written("small", "large", "large", "large")), glimpse_of(0.1))[0] == "small"
    assert verdict(policy.plan(written("large", "large", "large", "small"))) == ("small", [])
    assert verdict(policy.plan(written("small", "small")), glimpse_of(1.5))[0] == "large"


def test_loop_ends_a_stay() -> None:
    policy = make_policy(Routing(small_min_stay_steps=9), threshold_nats=0.9, seed=0)
    assert verdict(policy.plan(trace_of(Step(index=0, author="small", loop_cycle_steps=1)))) == ("large", [])
