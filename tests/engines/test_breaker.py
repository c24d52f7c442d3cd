"""When a replica is left alone, and how it comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.engines.breaker import Breaker, BreakerRules


@settings(deadline=None)
@given(st.lists(st.sampled_from(["fail", "succeed", "wait"]), max_size=60))
def test_a_breaker_opens_only_after_enough_failures_and_always_comes_back(events: list[str]) -> None:
    now = 0.0
    rules = BreakerRules()
    breaker = Breaker(rules, clock=lambda: now, chance=lambda: 0.5)
    failures = 0
    for event in events:
        if not breaker.lets_through:
            now += rules.open_s * 2
            assert breaker.state == "half-open"
        breaker.enter()
        if event == "fail":
            failures += 1
            breaker.failed(may_open=True)
            assert breaker.state == "closed" or failures >= 1
        elif event == "succeed":
            breaker.succeeded()
            assert breaker.state == "closed"
        else:
            breaker.end_trial()
            now += 1.0
    if len(events) < rules.least_calls:
        assert breaker.state in ("closed", "half-open")
    now += rules.open_s * 2
    assert breaker.lets_through


def test_the_last_closed_breaker_stays_closed() -> None:
    breaker = Breaker(BreakerRules(), clock=lambda: 0.0, chance=lambda: 0.0)
    for _ in range(100):
        breaker.enter()
        breaker.failed(may_open=False)
    assert breaker.state == "closed"


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_breaker_opens_exactly_when_half_of_the_last_twenty_calls_failed(failed: list[bool]) -> None:
    rules = BreakerRules()
    breaker = Breaker(rules, clock=lambda: 0.0, chance=lambda: 0.0)
    for count, one in enumerate(failed, 1):
        breaker.enter()
        if one:
            breaker.failed(may_open=True)
        else:
            breaker.succeeded()
        recent = failed[max(0, count - rules.most_calls) : count]
        bad = one and len(recent) >= rules.least_calls and sum(recent) >= rules.failure_share * len(recent)
        assert (breaker.state == "open") == bad
        if bad:
            return


def test_one_trial_at_a_time_and_its_failure_opens_again() -> None:
    now = 0.0
    breaker = Breaker(BreakerRules(open_s=10.0), clock=lambda: now, chance=lambda: 0.0)
    breaker.open()
    now = 11.0
    assert [breaker.lets_through, breaker.enter(), breaker.lets_through] == [True, True, False]
    breaker.failed(may_open=False)
    assert breaker.state == "open"


def test_failures_long_ago_count_for_nothing() -> None:
    now = 0.0
    breaker = Breaker(BreakerRules(), clock=lambda: now, chance=lambda: 0.0)
    for _ in range(4):
        breaker.failed(may_open=True)
    now = 31.0
    breaker.failed(may_open=True)
    assert breaker.state == "closed"
