"""Policies that follow what answers show, on streams of entropies: what they promise holds, whatever comes."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.config import Routing, Side
from glimprouter.engines.scripted import Line, ScriptedEngine
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import StepPolicy
from glimprouter.flow.prior import Calibrated, Prior
from glimprouter.flow.quantiles import rank
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Step, Trace, to_line
from glimprouter.policies import make_policy
from glimprouter.policies.priors import LEARNERS, Loan, Priors
from glimprouter.router import Router
from tests.policies.test_policies import glimpse_of, trace_of

ADAPTIVE = ("share", "budget", "hysteresis", "instance")
KNOWN = Calibrated(0.7)
Stream = Callable[[random.Random], float]


def policy_of(name: str, **params: float) -> StepPolicy:
    return make_policy(Routing(policy=name, params=dict(params)), threshold_nats=KNOWN.threshold, seed=0)


def decide(policy: StepPolicy, trace: Trace, entropy_nats: float) -> tuple[Side, bool]:
    """Who is to write the next step, and whether a glimpse was asked for."""
    plan = policy.plan(trace)
    try:
        next(plan)
    except StopIteration as stop:
        return stop.value.who, False
    with pytest.raises(StopIteration) as stopped:
        plan.send(glimpse_of(entropy_nats))
    return stopped.value.value.who, True


def written(
    policy: StepPolicy,
    entropies: Iterable[float],
    *,
    prior: Prior | None = None,
    tokens: int = 10,
    wall_ms: float = 100,
) -> Trace:
    """A thought whose steps have these entropies."""
    trace = trace_of()
    trace.prior = prior
    for index, nats in enumerate(entropies):
        who, seen = decide(policy, trace, nats)
        glimpse = glimpse_of(nats) if seen else None
        trace.steps.append(
            Step(index=index, author=who, glimpse=glimpse, ids=[0] * tokens, text="x\n\n", wall_ms=wall_ms)
        )
    return trace


def answers(routing: Routing, streams: Sequence[Sequence[float]], *, known: Calibrated = KNOWN) -> Iterator[Trace]:
    """One answer after another, as a router writes them."""
    priors = Priors()
    policy = make_policy(routing, threshold_nats=known.threshold, seed=0)
    for stream in streams:
        trace = trace_of()
        loan = priors.lend(routing, known, trace)
        trace.steps = written(policy, stream, prior=trace.prior).steps
        repay(loan)
        yield trace


def repay(loan: Loan | None) -> None:
    assert loan is not None
    loan.repay()


def share_of(traces: Iterable[Trace]) -> float:
    steps = [step for trace in traces for step in trace.steps]
    return sum(step.author == "large" for step in steps) / len(steps)


EASY: Stream = lambda rng: rng.expovariate(4.0)  # noqa: E731
HARD: Stream = lambda rng: 0.8 + rng.expovariate(1.0)  # noqa: E731
TWO_HUMPED: Stream = lambda rng: rng.gauss(0.05, 0.02) if rng.random() < 0.8 else rng.gauss(1.5, 0.3)  # noqa: E731
FLAT: Stream = lambda rng: 0.5  # noqa: E731
STREAMS = {"easy": EASY, "hard": HARD, "two-humped": TWO_HUMPED, "flat": FLAT}


def draw(stream: Stream, steps: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [max(0.0, stream(rng)) for _ in range(steps)]


class TestShare:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.floats(0.0, 10.0), min_size=40, max_size=120), st.floats(0.05, 0.6))
    def test_an_answer_of_forty_steps_is_within_five_points_whatever_comes(
        self, entropies: list[float], target: float
    ) -> None:
        trace = written(policy_of("share", target=target), entropies)
        for steps in range(40, len(entropies) + 1):
            share = sum(step.author == "large" for step in trace.steps[:steps]) / steps
            assert abs(share - target) <= 0.05 + 1e-9

    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("target", [0.1, 0.25, 0.4])
    def test_a_hundred_short_answers_are_within_two_points(self, name: str, target: float) -> None:
        rng = random.Random(1)
        streams = [draw(STREAMS[name], rng.randint(3, 14), seed) for seed in range(100)]
        traces = list(answers(Routing(policy="share", params={"target": target}), streams))
        assert share_of(traces) == pytest.approx(target, abs=0.02)

    def test_a_change_of_the_mix_in_mid_run_is_followed(self) -> None:
        rng = random.Random(2)
        streams = [draw(EASY if seed < 50 else HARD, rng.randint(4, 60), seed) for seed in range(100)]
        traces = list(answers(Routing(policy="share", params={"target": 0.25}), streams))
        assert share_of(traces) == pytest.approx(0.25, abs=0.02)
        assert share_of(traces[50:]) == pytest.approx(0.25, abs=0.02)
        for trace in traces:
            if len(trace.steps) >= 40:
                assert share_of([trace]) == pytest.approx(0.25, abs=0.05)

    def test_it_comes_to_rest_on_steady_entropies(self) -> None:
        """Late in a long answer it decides nearly as the fixed quantile would: the level has stopped to swing."""
        entropies = draw(EASY, 2000)
        trace = written(policy_of("share", target=0.25), entropies)
        quantile = sorted(entropies)[1500]
        agree = [
            (step.author == "large") == (nats > quantile) for step, nats in zip(trace.steps, entropies, strict=True)
        ]
        assert sum(agree[1000:]) / 1000 > 0.96

    def test_it_picks_the_steps_in_doubt(self) -> None:
        rng = random.Random(3)
        streams = [draw(TWO_HUMPED, rng.randint(6, 12), seed) for seed in range(100)]
        traces = list(answers(Routing(policy="share", params={"target": 0.2}), streams))
        steps = [
            (nats, step)
            for stream, trace in zip(streams, traces, strict=True)
            for nats, step in zip(stream, trace.steps, strict=True)
        ]
        doubtful = [step.author == "large" for nats, step in steps if nats > 0.5]
        assert sum(doubtful) / len(doubtful) > 0.75, "chance would give 0.2"

    def test_answers_under_way_together_do_not_work_off_the_same_excess_twice(self) -> None:
        routing, priors = Routing(policy="share", params={"target": 0.25}), Priors()
        policy = policy_of("share", target=0.25)
        total = large = 0
        rng = random.Random(4)
        for _ in range(12):
            together = [trace_of() for _ in range(16)]
            loans = [priors.lend(routing, KNOWN, trace) for trace in together]
            assert sum(trace.prior is not None and trace.prior.excess_steps != 0 for trace in together) <= 1
            for trace, loan in zip(together, loans, strict=True):
                stream = draw(HARD, rng.randint(4, 12), rng.randrange(10**6))
                trace.steps = written(policy, stream, prior=trace.prior).steps
                repay(loan)
                total += len(trace.steps)
                large += sum(step.author == "large" for step in trace.steps)
        assert large / total == pytest.approx(0.25, abs=0.03)

    def test_a_loop_goes_to_large_and_is_made_good(self) -> None:
        policy = policy_of("share", target=0.25)
        trace = written(policy, [0.1] * 4)
        trace.steps[-1].loop_cycle_steps = 1
        assert decide(policy, trace, 0.0) == ("large", False)


class TestBudget:
    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("usual", [10, 30])
    def test_it_is_never_overspent_by_more_than_a_step_nor_dry_early(self, name: str, usual: int) -> None:
        policy = policy_of("budget", large_tokens=164, answer_tokens=64)
        for seed in range(20):
            prior = replace(KNOWN.prior(), mean_steps=float(usual))
            steps = written(policy, draw(STREAMS[name], usual, seed), prior=prior, tokens=20).steps
            spent = [20 * sum(step.author == "large" for step in steps[: place + 1]) for place in range(usual)]
            assert spent[-1] <= 100 + 20
            assert spent[usual // 2] <= 80, "half of the thought has not eaten the whole"

    def test_what_is_left_is_enough_for_a_doubt_at_the_end(self) -> None:
        policy = policy_of("budget", large_tokens=264, answer_tokens=64)
        prior = replace(KNOWN.prior(), mean_steps=20.0, mean_large_tokens=20.0)
        steps = written(policy, [*draw(EASY, 19, 7), 3.0], prior=prior, tokens=20).steps
        assert steps[-1].author == "large"

    def test_it_spends_where_the_doubt_is(self) -> None:
        policy = policy_of("budget", large_tokens=164, answer_tokens=64)
        prior = replace(KNOWN.prior(), mean_steps=25.0, mean_large_tokens=20.0)
        entropies = draw(TWO_HUMPED, 25, 5)
        steps = written(policy, entropies, prior=prior, tokens=20).steps
        assert all(nats > 0.5 for nats, step in zip(entropies, steps, strict=True) if step.author == "large")
        assert any(step.author == "large" for step in steps)

    def test_milliseconds_count_where_they_are_given(self) -> None:
        policy = policy_of("budget", large_ms=1000.0, answer_ms=400.0)
        prior = replace(KNOWN.prior(), mean_steps=20.0, mean_large_ms=100.0)
        steps = written(policy, draw(HARD, 20), prior=prior, wall_ms=100.0).steps
        assert 2 <= sum(step.author == "large" for step in steps) <= 6

    def test_nothing_for_the_thought_leaves_it_to_small(self) -> None:
        policy = policy_of("budget", large_tokens=64, answer_tokens=64)
        assert share_of([written(policy, draw(HARD, 12))]) == 0.0

    def test_more_set_aside_than_there_is_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="answer_tokens is 100") as raised:
            policy_of("budget", large_tokens=50, answer_tokens=100)
        assert raised.value.field == "params.answer_tokens"


class TestHysteresis:
    def test_between_the_levels_whoever_wrote_goes_on(self) -> None:
        policy = policy_of("hysteresis", min_stay_steps=1, handover_cost_steps=0.0)
        small, large = Step(index=0, author="small"), Step(index=0, author="large")
        assert decide(policy, trace_of(small), 0.5)[0] == "small"
        assert decide(policy, trace_of(large), 0.5)[0] == "large"
        assert decide(policy, trace_of(large), 0.3)[0] == "small"
        assert decide(policy, trace_of(small), 0.8)[0] == "large"

    def test_large_stays_for_its_least_stay_without_being_asked(self) -> None:
        policy = policy_of("hysteresis", min_stay_steps=3)
        steps = [Step(index=0, author="small"), Step(index=1, author="large"), Step(index=2, author="large")]
        assert decide(policy, trace_of(*steps), 0.0) == ("large", False)
        assert decide(policy, trace_of(*steps, Step(index=3, author="large")), 0.0) == ("small", True)

    def test_a_dear_hand_over_widens_the_band_and_a_long_stay_narrows_it(self) -> None:
        def band(**params: float) -> float:
            policy = policy_of("hysteresis", **params)
            return policy.enter - policy.leave  # type: ignore[attr-defined, no-any-return]

        assert band(handover_cost_steps=1.0) > band(handover_cost_steps=0.1)
        assert band(handover_cost_steps=1.0, min_stay_steps=8) < band(handover_cost_steps=1.0)

    def test_hand_overs_are_fewer_at_the_same_share(self) -> None:
        """On streams where one doubt comes with the next, as in thoughts."""
        rng = random.Random(0)
        stream, level = list[float](), 0.6
        for _ in range(4000):
            level = 0.6 + 0.7 * (level - 0.6) + rng.gauss(0.0, 0.25)
            stream.append(max(0.0, level))
        damped = written(policy_of("hysteresis"), stream)
        wanted = share_of([damped])
        cut = sorted(stream)[round((1 - wanted) * len(stream))]
        plain = written(make_policy(Routing(), threshold_nats=cut, seed=0), stream)
        assert share_of([plain]) == pytest.approx(wanted, abs=0.01)
        assert changes(damped) <= 0.7 * changes(plain)


def changes(trace: Trace) -> int:
    return sum(a.author != b.author for a, b in zip(trace.steps, trace.steps[1:], strict=False))


class TestInstance:
    def test_an_answer_in_trouble_has_a_lower_threshold(self) -> None:
        policy = policy_of("instance")
        assert decide(policy, written(policy, [0.1] * 10), 0.6)[0] == "small"
        assert decide(policy, written(policy, [1.5] * 10), 0.6)[0] == "large"

    def test_doubts_count_and_so_does_length(self) -> None:
        policy = policy_of("instance", hardness=0.0)
        calm = trace_of(*(Step(index=index, author="small", text="Add.\n\n") for index in range(8)))
        doubting = trace_of(*(Step(index=index, author="small", text="Wait, no.\n\n") for index in range(8)))
        assert decide(policy, calm, 0.6)[0] == "small"
        assert decide(policy, doubting, 0.6)[0] == "large"
        calm.prior = replace(KNOWN.prior(), mean_steps=4.0)
        assert decide(policy, calm, 0.6)[0] == "large"

    @settings(deadline=None)
    @given(st.lists(st.floats(0.0, 10.0), max_size=40), st.floats(0.0, 10.0))
    def test_the_threshold_moves_by_a_factor_of_four_at_most(self, entropies: list[float], nats: float) -> None:
        policy = policy_of("instance", hardness=50.0)
        who = decide(policy, written(policy, entropies), nats)[0]
        if nats > 4 * KNOWN.threshold + 1e-9:
            assert who == "large"
        if nats < KNOWN.threshold / 4 - 1e-9:
            assert who == "small"

    def test_without_its_signs_it_is_the_plain_policy(self) -> None:
        policy = policy_of("instance", hardness=0.0, doubt=0.0, length=0.0)
        plain = make_policy(Routing(), threshold_nats=KNOWN.threshold, seed=0)
        stream = draw(EASY, 200)
        assert [s.author for s in written(policy, stream).steps] == [s.author for s in written(plain, stream).steps]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_unknown_options_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'params\.tarhet'") as raised:
        policy_of(name, tarhet=0.2)
    assert raised.value.field == "params.tarhet"


def test_options_out_of_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"params\.target is 1\.5"):
        policy_of("share", target=1.5)


@pytest.mark.parametrize("name", ADAPTIVE)
async def test_a_decision_can_be_made_again_from_its_trace(name: str) -> None:
    rng = random.Random(5)
    lines = [Line(f"Step {place} says a thing.\n\n", rng.expovariate(1.4)) for place in range(14)]
    router = Router(ScriptedEngine(lines, answer="4"), ScriptedEngine(lines, answer="4"), calibrated=KNOWN)
    for _ in range(4):
        trace = await router.answer(ask("2+2?", routing=Routing(policy=name)))
        policy = policy_of(name)
        again = replace_steps(trace, [])
        for step in trace.steps:
            nats = step.glimpse.entropy_nats if step.glimpse else 0.0
            assert decide(policy, again, nats)[0] == step.author
            again.steps.append(step)
        assert (trace.prior is not None) == (name in LEARNERS)
        assert b'"prior":' in to_line(trace)


def replace_steps(trace: Trace, steps: list[Step]) -> Trace:
    again = trace_of(*steps)
    again.prior = trace.prior
    return again


def test_priors_learn_from_answer_to_answer() -> None:
    routing = Routing(policy="instance")
    last = list(answers(routing, [draw(HARD, 20, seed) for seed in range(60)]))[-1].prior
    assert last is not None
    assert last.mean_steps == pytest.approx(20.0)
    assert rank(last.quantiles, 0.8 + math.log(2)) == pytest.approx(0.5, abs=0.08)


def test_an_answer_broken_off_is_folded_in_but_tells_no_length() -> None:
    routing, priors = Routing(policy="share"), Priors()
    trace = trace_of()
    loan = priors.lend(routing, KNOWN, trace)
    trace.steps = [Step(index=0, author="large", glimpse=glimpse_of(1.0))]
    trace.error = "cancelled"
    repay(loan)
    following = trace_of()
    priors.lend(routing, KNOWN, following)
    assert following.prior is not None
    assert following.prior.excess_steps == pytest.approx(0.75)
    assert following.prior.mean_steps == 0.0


def test_ways_of_routing_have_priors_of_their_own_and_the_oldest_are_dropped() -> None:
    priors = Priors()
    for place in range(600):
        routing = Routing(policy="share", params={"target": place / 1000})
        trace = trace_of()
        loan = priors.lend(routing, KNOWN, trace)
        trace.steps = [Step(index=0, author="large")]
        repay(loan)
    assert len(priors._memories) == 256
