"""Answer strategies: ways to a whole answer that ask a router once or several times. A registry from name to class.

A step policy says who writes the next step; a strategy drives whole answers, and usually asks a policy again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glimprouter.config import Param
from glimprouter.errors import ConfigError
from glimprouter.policies.params import check_params, policy_from
from glimprouter.strategies.cascade import Cascade
from glimprouter.strategies.strategy import Routed, Strategy
from glimprouter.strategies.vote import Vote
from glimprouter.strategies.whole_question import WholeQuestion

STRATEGIES: dict[str, type[Any]] = {
    "routed": Routed,
    "cascade": Cascade,
    "whole-question": WholeQuestion,
    "vote": Vote,
}


def check_strategy(name: str, params: Mapping[str, Param]) -> None:
    """Raises ConfigError for a name that is not registered, and for options that the strategy does not take."""
    if name not in STRATEGIES:
        raise ConfigError(f"strategy is {name!r}; accepted: {', '.join(STRATEGIES)}", field="strategy")
    check_params(STRATEGIES[name], name, params)


def make_strategy(name: str, params: Mapping[str, Param], *, fitted: Mapping[str, Param]) -> Strategy:
    """`fitted` are options that hold for the pair where `params` says nothing else. Raises ConfigError."""
    check_strategy(name, params)
    strategy: Strategy = policy_from(STRATEGIES[name], name, {**fitted, **params})
    return strategy
