"""Share: the threshold moves so that large writes a wanted share of steps, in the answer and over answers."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES, number
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.signals import Signal
from glimprouter.flow.trace import Trace
from glimprouter.policies.standing import own_values, prior_of, standing


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """`target`: share of steps by large. `slack` and `slack_steps` bound how far an answer may stray from it."""

    target: float = 0.25
    slack: float = 0.05
    slack_steps: float = 2.0

    def __post_init__(self) -> None:
        number("target", self.target, 0.0, 1.0)
        number("slack", self.slack, 0.0, 1.0)
        number("slack_steps", self.slack_steps, 1.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Share:
    """Large where the step ranks above a level that rises with the debt: steps by large beyond `target` so far.

    Convergence. A step is large's only if its own debt then is at most `slack_steps`, or `slack` of the answer's steps
    where that is more, and small's only if the debt is no further below 0. So whatever the entropies, after t steps the
    answer's share is within max(slack_steps / t, slack) of the target: 5 points from 40 steps on, with the defaults.
    Over answers debts add up; each answer is lent all that is owed when it begins (no other has it meanwhile) and its
    level works it off, so what is owed stays within some answers' slack and the share's error falls as 1 / answers.
    No oscillation: the level rises with the square of what is owed over what is allowed, so small debts hardly move it,
    and ever less the longer the answer; on steady entropies it comes to rest at the quantile 1 - target. Exempt are
    loops, which always go to large and are made good afterwards.
    """

    options: ShareOptions
    threshold: float
    signal: Signal

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        if trace.steps and trace.steps[-1].loop_cycle_steps:
            return Write("large")
        target, prior = self.options.target, prior_of(trace, self.threshold)
        glimpse = yield from probe("small", self.signal.tokens)
        stands = standing(self.signal.measure(glimpse), prior, own_values(trace, self.signal))
        debt = sum((step.author == "large") - target for step in trace.steps)
        allowed = max(self.options.slack_steps, self.options.slack * (len(trace.steps) + 1))
        if debt + 1.0 - target > allowed:
            return Write("small")
        if debt - target < -allowed:
            return Write("large")
        owed = max(-1.0, min(1.0, (debt + prior.excess_steps) / allowed))
        level = 1.0 - target + owed * abs(owed) * (target if owed > 0.0 else 1.0 - target)
        return Write("large" if stands > level else "small")

    def describe(self) -> str:
        return f"share(target={self.options.target:g}, {self.signal.name})"
