"""What is compared: one row of the table each, made from the same routing options so that only the writers differ.

Steps are routed by a policy (`policies/`), whole answers driven by a strategy (`strategies/`); what a method is and
where it comes from stands there. Options of a method's own are fitted to a pair beforehand where they must be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from glimprouter.config import Param, Routing
from glimprouter.errors import ConfigError
from glimprouter.policies import NEED_REWARD

PLAIN_METHODS = {
    "small": "the small model alone",
    "large": "the large model alone, streamed through the router",
    "share0": "small thinks, large answers: the zero point, for the large model writes every routed answer",
    "glimpse": "GlimpRouter at the threshold",
    "random": "steps to the large model at random, at glimpse's share of thought tokens",
    "large-unstreamed": "the large model alone in one blocking request, as without this program",
}
"""What is run where no methods are named."""

STEP_METHODS = {
    "random-tokens": "steps at random, so that the large model has a given share of tokens",
    "specreason": "SpecReason: small drafts, large grades from 0 to 9, by the likeliest grade",
    "specreason-expected": "SpecReason by the expected grade",
    "speccot": "SpecCoT: several drafts by small, large picks",
    "speculative-thinking": "Speculative Thinking: cue words hand over",
    "steer": "STEER: confidence of the small model's glimpse, by a mixture of two",
    "relaygen": "RelayGen: large writes, and hands sentences over at cue words",
    "step-entropy": "drafts by small, by the mean entropy of their tokens (H_step)",
    "step-perplexity": "drafts by small, by their perplexity (PPL_step)",
    "rsd": "RSD: drafts by small, valued by a reward model",
    "oracle": "escalates exactly the steps in which the small model goes wrong: the upper bound",
}
ANSWER_METHODS = {
    "whole-question": "a look at small's first thoughts says which model answers alone",
    "cascade": "small answers; where its mean token entropy was high large answers anew",
    "cascade-h-init": "the same by the mean H_init of its steps",
    "vote": "majority of several answers by small",
}
METHODS = PLAIN_METHODS | STEP_METHODS | ANSWER_METHODS
"""Names that `--methods` takes, and what they are."""

RANDOM_LOW, RANDOM_HIGH = "random-low", "random-high"
BRACKET = 0.1
"""How far below and above the expected share the two Random runs lie, so that they enclose the one glimpse reaches."""

_OWN_PARAMS: dict[str, dict[str, Param]] = {
    "specreason-expected": {"expected": True},
    "cascade-h-init": {"signal": "h_init"},
}
"""What tells a row from the policy or strategy that it is a variant of."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row: how its answers are routed. An unstreamed one is asked of the large engine directly.

    `strategy` names what drives a whole answer, with options of its own in `strategy_params`. The oracle is told by the
    suite which steps are right.
    """

    name: str
    routing: Routing
    unstreamed: bool = False
    strategy: str = "routed"
    strategy_params: Mapping[str, Param] = field(default_factory=dict)
    oracle: bool = False


def check_methods(names: Sequence[str]) -> None:
    """Raises ConfigError for an unknown name, one given twice, none at all, and random without glimpse."""
    accepted = f"accepted: {', '.join(METHODS)}"
    if not names:
        raise ConfigError(f"--methods is empty; {accepted}", field="methods")
    for place, name in enumerate(names):
        if name not in METHODS:
            raise ConfigError(f"--methods names {name!r}; {accepted}", field="methods")
        if name in names[:place]:
            raise ConfigError(f"--methods names {name!r} twice; name each once", field="methods")
    if "random" in names and "glimpse" not in names:
        raise ConfigError(
            "--methods names random without glimpse, whose large share it is to match; add glimpse", field="methods"
        )


def methods_of(names: Sequence[str], routing: Routing, *, threshold_nats: float, random_p: float) -> list[Method]:
    """The rows that some names stand for. Random is two: it is run below and above the share it has to match."""
    rows: list[Method] = []
    for name in names:
        if name == "random":
            rows += random_bracket(routing, random_p)
        elif name == "glimpse":
            rows.append(glimpse_at(routing, threshold_nats, name=name))
        elif name in STEP_METHODS:
            rows.append(_step_method(name, routing, random_p))
        elif name in ANSWER_METHODS:
            rows.append(_answer_method(name, routing))
        else:
            rows.append(_fixed(name, routing))
    return rows


def needs_reward(names: Sequence[str]) -> bool:
    """Whether one of the methods asks a reward model."""
    return not NEED_REWARD.isdisjoint(names)


def glimpse_at(routing: Routing, threshold_nats: float, *, name: str | None = None) -> Method:
    """GlimpRouter at a threshold, in nats."""
    routed = replace(routing, policy="glimpse", threshold=threshold_nats, answer_by="large", params={})
    return Method(name or f"glimpse@{threshold_nats:g}", routed)


def zero_point(routing: Routing) -> Method:
    return _fixed("share0", routing)


def random_bracket(routing: Routing, p: float) -> list[Method]:
    """Random with probabilities of the large model around `p`."""
    ends = {RANDOM_LOW: max(0.0, p - BRACKET), RANDOM_HIGH: min(1.0, p + BRACKET)}
    return [
        Method(
            name,
            replace(routing, policy="random", threshold=None, random_p=round(end, 4), answer_by="large", params={}),
        )
        for name, end in ends.items()
    ]


def _step_method(name: str, routing: Routing, random_p: float) -> Method:
    """A published policy, or the oracle, which is no policy that options can name: `small` stands in its place."""
    policy = {"oracle": "small", "specreason-expected": "specreason"}.get(name, name)
    routed = replace(routing, policy=policy, threshold=None, answer_by="large", params=_OWN_PARAMS.get(name, {}))
    if name == "random-tokens":
        routed = replace(routed, random_p=round(random_p, 4))
    return Method(name, routed, oracle=name == "oracle")


def _answer_method(name: str, routing: Routing) -> Method:
    """Who writes is the strategy's own business."""
    routed = replace(routing, policy="small", threshold=None, answer_by="small", first_large_steps=0, params={})
    strategy = "cascade" if name == "cascade-h-init" else name
    return Method(name, routed, strategy=strategy, strategy_params=_OWN_PARAMS.get(name, {}))


def _fixed(name: str, routing: Routing) -> Method:
    writer = "large" if name.startswith("large") else "small"
    routed = replace(
        routing, policy=writer, answer_by="small" if name == "small" else "large", threshold=None, first_large_steps=0,
        params={},
    )  # fmt: skip
    return Method(name, routed, unstreamed=name == "large-unstreamed")
