"""Policies: who writes the next step. Plans without I/O; a registry from name to maker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import StepPolicy
from glimprouter.policies.first_large import FirstLarge
from glimprouter.policies.fixed import Fixed
from glimprouter.policies.glimpse import GlimpsePolicy
from glimprouter.policies.min_stay import MinStay
from glimprouter.policies.pattern import PatternPolicy
from glimprouter.policies.random import RandomPolicy


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy may be made from: the routing options, the threshold that holds, the answer's seed."""

    routing: Routing
    threshold_nats: float
    seed: int


POLICIES: dict[str, Callable[[Terms], StepPolicy]] = {
    "glimpse": lambda terms: GlimpsePolicy(terms.threshold_nats),
    "small": lambda _: Fixed("small"),
    "large": lambda _: Fixed("large"),
    "random": lambda terms: RandomPolicy(terms.routing.random_p, terms.seed),
    "pattern": lambda terms: PatternPolicy(terms.routing.pattern),
}


def check_policy(name: str) -> None:
    """Raises ConfigError for a name that is not registered."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}; accepted: {', '.join(POLICIES)}", field="policy")


def make_policy(routing: Routing, *, threshold_nats: float, seed: int) -> StepPolicy:
    """The policy that `routing` names. Raises ConfigError for an unknown one."""
    check_policy(routing.policy)
    policy = POLICIES[routing.policy](Terms(routing, threshold_nats, seed))
    if routing.small_min_stay_steps > 1 or routing.large_min_stay_steps > 1:
        policy = MinStay(policy, routing.small_min_stay_steps, routing.large_min_stay_steps)
    return FirstLarge(policy, routing.first_large_steps) if routing.first_large_steps else policy
