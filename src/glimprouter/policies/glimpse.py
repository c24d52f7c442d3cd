"""GlimpRouter: the entropy of a step's first token, as the small model sees it, says who writes it (paper, 3)."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.signals import ENTROPY, Signal
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class GlimpsePolicy:
    """Large where H_init > threshold (strictly, as published), and out of a loop; small elsewhere.

    Another signal may stand in for H_init; the threshold is then in its unit.
    """

    threshold: float
    signal: Signal = ENTROPY

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        if trace.steps and trace.steps[-1].loop_cycle_steps:
            return Write("large")
        glimpse = yield from probe("small", self.signal.tokens)
        return Write("large" if self.signal.measure(glimpse) > self.threshold else "small")

    def describe(self) -> str:
        signal = "" if self.signal is ENTROPY else f", {self.signal.name}"
        return f"glimpse(threshold={self.threshold:g}{signal})"
