"""RSD, reward-guided speculative decoding (arXiv 2501.19324): the small model drafts every step, a process reward model
values it; below `least` the large model writes the step.

As published, with its hard threshold of 0.7 on a reward from 0 to 1. Needs a reward model (--reward): a pair alone has
none, and none ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.moves import Keep, Plan, Write, draft, reward
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class Rsd:
    least: Annotated[float, Within(0, 1)] = 0.7

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        value = yield from reward(step)
        return Keep(step) if value >= self.least else Write("large")

    def describe(self) -> str:
        return described("rsd", self)
