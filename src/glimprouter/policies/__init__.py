"""Policies: who writes the next step. Plans without I/O; a registry from name to maker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from glimprouter.config import Routing, from_table
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import StepPolicy
from glimprouter.flow.signals import ENTROPY, ClassScale, Signal, signal_named
from glimprouter.policies.budget import Budget, BudgetOptions
from glimprouter.policies.first_large import FirstLarge
from glimprouter.policies.fixed import Fixed
from glimprouter.policies.glimpse import GlimpsePolicy
from glimprouter.policies.hysteresis import Hysteresis, HysteresisOptions
from glimprouter.policies.instance import Instance, InstanceOptions
from glimprouter.policies.min_stay import MinStay
from glimprouter.policies.random import RandomPolicy
from glimprouter.policies.share import Share, ShareOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy may be made from: the routing options, the threshold that holds, the answer's seed, the signal."""

    routing: Routing
    threshold_nats: float
    seed: int
    signal: Signal = ENTROPY

    def options(self, kind: type[T]) -> T:
        """The policy's own options. Raises ConfigError for one it does not know."""
        return from_table(kind, dict(self.routing.params), where=f"policy {self.routing.policy}", prefix="params.")


POLICIES: dict[str, Callable[[Terms], StepPolicy]] = {
    "glimpse": lambda terms: GlimpsePolicy(terms.threshold_nats, terms.signal),
    "small": lambda _: Fixed("small"),
    "large": lambda _: Fixed("large"),
    "random": lambda terms: RandomPolicy(terms.routing.random_p, terms.seed),
}

# Those that follow what the answer, or answers before it, have shown.
POLICIES |= {
    "share": lambda terms: Share(terms.options(ShareOptions), terms.threshold_nats, terms.signal),
    "budget": lambda terms: Budget(terms.options(BudgetOptions), terms.threshold_nats, terms.signal),
    "hysteresis": lambda terms: Hysteresis(terms.options(HysteresisOptions), terms.threshold_nats, terms.signal),
    "instance": lambda terms: Instance(terms.options(InstanceOptions), terms.threshold_nats, terms.signal),
}


def check_policy(name: str) -> None:
    """Raises ConfigError for a name that is not registered."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}; accepted: {', '.join(POLICIES)}", field="policy")


def make_policy(routing: Routing, *, threshold_nats: float, seed: int, scale: ClassScale | None = None) -> StepPolicy:
    """The policy that `routing` names; the threshold is of the signal it names. Raises ConfigError for an unknown one.

    `scale` is the pair's, for the signal that is measured on one.
    """
    check_policy(routing.policy)
    signal = signal_named(routing.signal or ENTROPY.name, scale)
    policy = POLICIES[routing.policy](Terms(routing, threshold_nats, seed, signal))
    if routing.small_min_stay_steps > 1 or routing.large_min_stay_steps > 1:
        policy = MinStay(policy, routing.small_min_stay_steps, routing.large_min_stay_steps)
    return FirstLarge(policy, routing.first_large_steps) if routing.first_large_steps else policy
