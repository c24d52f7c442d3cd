"""How often, how soon, and at whose expense a call is made again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.engines.retries import Budget, Retries


def test_a_budget_pays_for_one_retry_in_five_calls() -> None:
    budget = Budget(Retries(budget_spare=0), clock=lambda: 0.0)
    paid = 0
    for _ in range(1000):
        budget.earn()
        paid += budget.spend()
    assert paid == pytest.approx(200, abs=2)


def test_time_pays_for_ten_retries_a_second_up_to_the_most() -> None:
    times = [0.0]
    budget = Budget(Retries(budget_spare=0, budget_most=15), clock=lambda: times[-1])

    def paid_at(now: float) -> int:
        times.append(now)
        return sum(budget.spend() for _ in range(50))

    assert [paid_at(1.0), paid_at(100.0)] == [10, 15]


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_a_cap_and_are_drawn_from_all_of_it(failures: int, drawn: float) -> None:
    retries = Retries()
    wait_s = retries.wait_s(failures, lambda: drawn)
    assert 0 <= wait_s <= min(retries.cap_s, retries.base_s * 2 ** (failures - 1))
    assert wait_s == pytest.approx(drawn * retries.wait_s(failures, lambda: 1.0))
