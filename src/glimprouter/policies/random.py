"""Random: each step goes to the large model with probability p. What every other policy must beat at equal share."""

from __future__ import annotations

import random
from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Draws depend on seed and step number alone, so that an answer can be repeated."""

    p: float
    seed: int

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        yield from ()
        drawn = random.Random(f"{self.seed}/{len(trace.steps)}").random()
        return Write("large" if drawn < self.p else "small")

    def describe(self) -> str:
        return f"random(p={self.p:g}, seed={self.seed})"
