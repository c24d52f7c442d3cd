"""Where a step stands among others: its signal's rank in what the prior knows and the answer has shown."""

from __future__ import annotations

from glimprouter.flow.prior import Prior, assumed
from glimprouter.flow.quantiles import rank
from glimprouter.flow.signals import Signal
from glimprouter.flow.trace import Trace

PRIOR_STEPS = 20.0
"""The prior weighs as much as so many steps of the answer's own, or as many as it stands for, where those are fewer."""


def prior_of(trace: Trace, threshold: float) -> Prior:
    """The prior in the trace's header; without one, what a threshold alone lets assume."""
    return trace.prior or assumed(threshold)


def own_values(trace: Trace, signal: Signal) -> list[float]:
    """The signal of every step of the answer that was glimpsed."""
    return [signal.measure(step.glimpse) for step in trace.steps if step.glimpse is not None]


def standing(value: float, prior: Prior, own: list[float]) -> float:
    """Share of steps with a lower signal, 0 to 1; equal ones count half."""
    weight = min(PRIOR_STEPS, prior.weight_steps)
    below = sum(1.0 if other < value else 0.5 if other == value else 0.0 for other in own)
    return (weight * rank(prior.quantiles, value) + below) / (weight + len(own))
