"""Policies: who writes the next step. Plans without I/O; a registry from name to maker."""

from __future__ import annotations

from collections.abc import Callable

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import StepPolicy
from glimprouter.policies.first_large import FirstLarge
from glimprouter.policies.fixed import Fixed
from glimprouter.policies.glimpse import GlimpsePolicy
from glimprouter.policies.random import RandomPolicy

POLICIES: dict[str, Callable[[Routing, float, int], StepPolicy]] = {
    "glimpse": lambda routing, threshold, seed: GlimpsePolicy(threshold),
    "small": lambda routing, threshold, seed: Fixed("small"),
    "large": lambda routing, threshold, seed: Fixed("large"),
    "random": lambda routing, threshold, seed: RandomPolicy(routing.random_p, seed),
}
"""Name -> maker, given the routing options, the threshold in nats and the answer's seed."""


def check_policy(name: str) -> None:
    """Raises ConfigError for a name that is not registered."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}; accepted: {', '.join(POLICIES)}", field="policy")


def make_policy(routing: Routing, *, threshold: float, seed: int) -> StepPolicy:
    """The policy that `routing` names. Raises ConfigError for an unknown one."""
    check_policy(routing.policy)
    policy = POLICIES[routing.policy](routing, threshold, seed)
    return FirstLarge(policy, routing.first_large_steps) if routing.first_large_steps else policy
