"""Policies: who writes the next step. Plans without I/O; a registry from name to maker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from glimprouter.config import Param, Routing, from_table
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
from glimprouter.policies.params import check_params, policy_from
from glimprouter.policies.random import RandomPolicy
from glimprouter.policies.random_tokens import RandomTokens
from glimprouter.policies.relay_gen import RelayGen
from glimprouter.policies.rsd import Rsd
from glimprouter.policies.share import Share, ShareOptions
from glimprouter.policies.spec_cot import SpecCoT
from glimprouter.policies.spec_reason import SpecReason
from glimprouter.policies.speculative_thinking import SpeculativeThinking
from glimprouter.policies.steer import Steer
from glimprouter.policies.step_signal import StepEntropy, StepPerplexity


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy may be made from: the routing options, the threshold that holds, the answer's seed, the signal."""

    routing: Routing
    threshold_nats: float
    seed: int
    signal: Signal = ENTROPY


PLAIN: dict[str, Callable[[Terms], StepPolicy]] = {
    "glimpse": lambda terms: GlimpsePolicy(terms.threshold_nats, terms.signal),
    "small": lambda _: Fixed("small"),
    "large": lambda _: Fixed("large"),
    "random": lambda terms: RandomPolicy(terms.routing.random_p, terms.seed),
    "random-tokens": lambda terms: RandomTokens(terms.routing.random_p, terms.seed),
}
"""Policies made from options that others know as well."""

WITH_PARAMS: dict[str, type[Any]] = {
    "specreason": SpecReason,
    "speccot": SpecCoT,
    "speculative-thinking": SpeculativeThinking,
    "steer": Steer,
    "relaygen": RelayGen,
    "step-entropy": StepEntropy,
    "step-perplexity": StepPerplexity,
    "rsd": Rsd,
}
"""Policies whose options are their own: their fields, given as `routing.params`."""

ADAPTIVE: dict[str, tuple[Callable[[Any, float, Signal], StepPolicy], type[Any]]] = {
    "share": (Share, ShareOptions),
    "budget": (Budget, BudgetOptions),
    "hysteresis": (Hysteresis, HysteresisOptions),
    "instance": (Instance, InstanceOptions),
}
"""Policies made from options of their own, a threshold and its signal: they follow what answers have shown."""

POLICIES = (*PLAIN, *WITH_PARAMS, *ADAPTIVE)
"""All names, in the order in which they are told."""

NEED_LOGPROBS = frozenset({"glimpse", "steer", "step-entropy", "step-perplexity", *ADAPTIVE})
"""Policies that cannot do without the small model's log-probabilities."""

NEED_REWARD = frozenset({"rsd"})
"""Policies that ask a reward model."""


def check_policy(name: str, params: Mapping[str, Param] = MappingProxyType({})) -> None:
    """Raises ConfigError for a name that is not registered, and for options that the policy does not take."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}; accepted: {', '.join(POLICIES)}", field="policy")
    if name in WITH_PARAMS:
        check_params(WITH_PARAMS[name], name, params)
    elif name in ADAPTIVE:
        from_table(ADAPTIVE[name][1], dict(params), where=f"policy {name}", prefix="params.")
    elif params:
        given = ", ".join(params)
        raise ConfigError(f"policy {name} takes no params, and is given {given}; leave them out", field="params")


def make_policy(
    routing: Routing,
    *,
    threshold_nats: float,
    seed: int,
    fitted: Mapping[str, Param] = MappingProxyType({}),
    has_reward: bool = False,
    scale: ClassScale | None = None,
) -> StepPolicy:
    """The policy that `routing` names; `fitted` are options that hold for the pair where it says nothing else.

    The threshold is of the signal that `routing` names; `scale` is the pair's, for the signal measured on one.

    Raises ConfigError for an unknown one, for bad options, and where it needs a reward model and there is none.
    """
    name = routing.policy
    check_policy(name, routing.params)
    if name in NEED_REWARD and not has_reward:
        raise ConfigError(
            f"policy {name} asks a process reward model, and there is none: name the address of one with --reward "
            "(vLLM: vllm serve MODEL --runner pooling); the tiny pair has none",
            field="reward",
        )
    signal = signal_named(routing.signal or ENTROPY.name, scale)
    if name in PLAIN:
        policy = PLAIN[name](Terms(routing, threshold_nats, seed, signal))
    elif name in ADAPTIVE:
        make, options = ADAPTIVE[name]
        policy = make(from_table(options, dict(routing.params), where=name, prefix="params."), threshold_nats, signal)
    else:
        policy = policy_from(WITH_PARAMS[name], name, {**fitted, **routing.params})
    if routing.small_min_stay_steps > 1 or routing.large_min_stay_steps > 1:
        policy = MinStay(policy, routing.small_min_stay_steps, routing.large_min_stay_steps)
    return FirstLarge(policy, routing.first_large_steps) if routing.first_large_steps else policy
