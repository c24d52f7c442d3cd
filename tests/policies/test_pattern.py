"""A pattern of authors, followed to its end and no further."""

import pytest

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.policies import make_policy
from tests.policies.test_policies import trace_with, verdict


def test_steps_are_written_as_the_pattern_says_and_by_small_after_its_end() -> None:
    policy = make_policy(Routing(policy="pattern", params={"pattern": "sLL"}), threshold_nats=0.9, seed=0)
    authors = [verdict(policy.plan(trace_with(steps)))[0] for steps in range(5)]
    assert authors == ["small", "large", "large", "small", "small"]
    assert policy.describe() == "pattern(sLL)"


def test_a_pattern_of_other_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match="pattern is 'sl'; accepted: a letter s or L for each step"):
        make_policy(Routing(policy="pattern", params={"pattern": "sl"}), threshold_nats=0.9, seed=0)
