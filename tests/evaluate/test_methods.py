"""Methods differ in who writes, and in nothing else."""

from dataclasses import replace

import pytest

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.evaluate.methods import METHODS, check_methods, methods_of


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["small", "lrage"], "names 'lrage'; accepted: small, large, share0"),
        (["small", "small"], "'small' twice"),
        ([], "is empty"),
        (["small", "random"], "add glimpse"),
    ],
)
def test_what_cannot_be_compared_is_refused(names: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        check_methods(names)
    assert refused.value.field == "methods"


def test_all_methods_together_are_accepted() -> None:
    check_methods(list(METHODS))


def test_the_zero_point_is_answered_by_large_and_small_alone_by_small() -> None:
    rows = {row.name: row.routing for row in methods_of(list(METHODS), Routing(), threshold_nats=0.4, random_p=0.3)}
    assert (rows["small"].policy, rows["small"].answer_by) == ("small", "small")
    assert (rows["share0"].policy, rows["share0"].answer_by) == ("small", "large")
    assert (rows["large"].policy, rows["large"].answer_by) == ("large", "large")
    assert (rows["glimpse"].policy, rows["glimpse"].threshold) == ("glimpse", 0.4)


def test_methods_differ_in_routing_alone() -> None:
    base = Routing(max_thinking_tokens=77, min_step_tokens=3, first_large_steps=2, answer_by="small")
    for row in methods_of(list(METHODS), base, threshold_nats=0.4, random_p=0.3):
        neutral = replace(
            row.routing,
            policy="glimpse",
            threshold=None,
            random_p=0.5,
            first_large_steps=2,
            answer_by="small",
            params={},
        )
        assert neutral == base


def test_one_model_alone_is_not_made_to_plan_with_the_other() -> None:
    rows = methods_of(["small", "large", "share0"], Routing(first_large_steps=2), threshold_nats=1, random_p=0)
    assert [row.routing.first_large_steps for row in rows] == [0, 0, 0]


@pytest.mark.parametrize(("p", "low", "high"), [(0.25, 0.15, 0.35), (0.04, 0.0, 0.14), (0.97, 0.87, 1.0)])
def test_random_is_run_below_and_above_the_share_it_is_to_match(p: float, low: float, high: float) -> None:
    rows = methods_of(["glimpse", "random"], Routing(), threshold_nats=0.4, random_p=p)
    assert [row.name for row in rows] == ["glimpse", "random-low", "random-high"]
    assert [row.routing.random_p for row in rows[1:]] == [pytest.approx(low), pytest.approx(high)]


def test_only_the_blocking_request_is_unstreamed() -> None:
    rows = methods_of(list(METHODS), Routing(), threshold_nats=0.4, random_p=0.3)
    assert [row.name for row in rows if row.unstreamed] == ["large-unstreamed"]
