"""Policies: who writes the next step. Plans without I/O; a registry from name to maker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from glimprouter.config import Param, Routing
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import StepPolicy
from glimprouter.policies.first_large import FirstLarge
from glimprouter.policies.fixed import Fixed
from glimprouter.policies.glimpse import GlimpsePolicy
from glimprouter.policies.min_stay import MinStay
from glimprouter.policies.params import check_params, policy_from
from glimprouter.policies.random import RandomPolicy
from glimprouter.policies.random_tokens import RandomTokens
from glimprouter.policies.relay_gen import RelayGen
from glimprouter.policies.rsd import Rsd
from glimprouter.policies.spec_cot import SpecCoT
from glimprouter.policies.spec_reason import SpecReason
from glimprouter.policies.speculative_thinking import SpeculativeThinking
from glimprouter.policies.steer import Steer
from glimprouter.policies.step_signal import StepEntropy, StepPerplexity


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy may be made from: the routing options, the threshold that holds, the answer's seed."""

    routing: Routing
    threshold_nats: float
    seed: int


PLAIN: dict[str, Callable[[Terms], StepPolicy]] = {
    "glimpse": lambda terms: GlimpsePolicy(terms.threshold_nats),
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

POLICIES = (*PLAIN, *WITH_PARAMS)
"""All names, in the order in which they are told."""

NEED_LOGPROBS = frozenset({"glimpse", "steer", "step-entropy", "step-perplexity"})
"""Policies that cannot do without the small model's log-probabilities."""

NEED_REWARD = frozenset({"rsd"})
"""Policies that ask a reward model."""


def check_policy(name: str, params: Mapping[str, Param] = MappingProxyType({})) -> None:
    """Raises ConfigError for a name that is not registered, and for options that the policy does not take."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}; accepted: {', '.join(POLICIES)}", field="policy")
    if name in WITH_PARAMS:
        check_params(WITH_PARAMS[name], name, params)
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
) -> StepPolicy:
    """The policy that `routing` names; `fitted` are options that hold for the pair where it says nothing else.

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
    if name in PLAIN:
        policy = PLAIN[name](Terms(routing, threshold_nats, seed))
    else:
        policy = policy_from(WITH_PARAMS[name], name, {**fitted, **routing.params})
    if routing.small_min_stay_steps > 1 or routing.large_min_stay_steps > 1:
        policy = MinStay(policy, routing.small_min_stay_steps, routing.large_min_stay_steps)
    return FirstLarge(policy, routing.first_large_steps) if routing.first_large_steps else policy
