"""GlimpRouter: the entropy of a step's first token, as the small model sees it, says who writes it (paper, 3)."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class GlimpsePolicy:
    """Large where H_init > threshold (strictly, as published), and out of a loop; small elsewhere."""

    threshold_nats: float

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        if trace.steps and trace.steps[-1].loop_cycle_steps:
            return Write("large")
        glimpse = yield from probe("small")
        return Write("large" if glimpse.entropy_nats > self.threshold_nats else "small")

    def describe(self) -> str:
        return f"glimpse(threshold={self.threshold_nats:g})"
