"""Instance: the threshold of an answer follows what the answer has shown of itself."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import dataclass

from glimprouter.config import SIDES, number
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.signals import Signal
from glimprouter.flow.trace import Trace
from glimprouter.policies.standing import own_values, prior_of, standing

DOUBTS = re.compile(
    r"\b(wait|hmm+|actually|alternatively|mistake|wrong|not right|re-?check|double-check|let me check|try again)\b",
    re.IGNORECASE,
)
"""Words by which reasoning models call back what they have just said."""

NEUTRAL_STEPS = 6.0
"""An answer counts as one of the usual kind with the weight of so many steps, until it has shown otherwise."""

MOST = 4.0
"""The threshold is moved up or down by this factor at most."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """How much each sign of trouble moves the threshold; 0 leaves it out."""

    hardness: float = 2.0
    doubt: float = 1.0
    length: float = 0.5

    def __post_init__(self) -> None:
        for name in ("hardness", "doubt", "length"):
            number(name, getattr(self, name), 0.0, 100.0)


@dataclass(frozen=True, slots=True)
class Instance:
    """Large where the signal is above the threshold times exp(-trouble).

    Trouble is 0 for an answer like those the prior knows. It rises with the ranks of the answer's own signals, with the
    doubt words and loops per step, and with steps beyond the usual number; an easier answer has less than none.
    """

    options: InstanceOptions
    threshold: float
    signal: Signal

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        if trace.steps and trace.steps[-1].loop_cycle_steps:
            return Write("large")
        glimpse = yield from probe("small", self.signal.tokens)
        limit = math.log(MOST)
        moved = self.threshold * math.exp(-max(-limit, min(limit, self.trouble(trace))))
        return Write("large" if self.signal.measure(glimpse) > moved else "small")

    def trouble(self, trace: Trace) -> float:
        """In powers of e of the threshold."""
        prior, steps = prior_of(trace, self.threshold), trace.steps
        ranks = [standing(value, prior, []) for value in own_values(trace, self.signal)]
        weight = len(ranks) / (len(ranks) + NEUTRAL_STEPS)
        harder = weight * (statistics.fmean(ranks) - 0.5) if ranks else 0.0
        doubted = sum(bool(DOUBTS.search(step.text)) + (step.loop_cycle_steps > 0) for step in steps)
        doubts = doubted / (len(steps) + NEUTRAL_STEPS)
        longer = max(0.0, len(steps) / prior.mean_steps - 1.0) if prior.mean_steps else 0.0
        return self.options.hardness * harder + self.options.doubt * doubts + self.options.length * longer

    def describe(self) -> str:
        return f"instance(threshold={self.threshold:g}, {self.signal.name})"
