"""Random by tokens: steps go to the large model at random, so that it writes a given share of the tokens.

Where steps differ in length, a coin thrown for each step gives that share of steps, not of tokens. Here the coin is
weighted by what has been written, so that the share expected after the step is the one asked for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class RandomTokens:
    """`p` is the share of tokens. Draws depend on seed and step number alone; the coin's weight on the trace."""

    p: float
    seed: int

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        yield from ()
        drawn = random.Random(f"{self.seed}/{len(trace.steps)}").random()
        return Write("large" if drawn < self._weight(trace) else "small")

    def _weight(self, trace: Trace) -> float:
        """q for which (large + q m) / (all + m) = p, a step of the mean length m to come."""
        written = trace.thought_tokens()
        if not written:
            return self.p
        mean_tokens = written / len(trace.steps)
        return (self.p * (written + mean_tokens) - trace.thought_tokens("large")) / mean_tokens

    def describe(self) -> str:
        return f"random-tokens(p={self.p:g}, seed={self.seed})"
