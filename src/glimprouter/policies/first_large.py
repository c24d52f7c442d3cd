"""The first n steps by the large model, then any other policy: plans are worth the large model's price."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.flow.moves import Plan, StepPolicy, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class FirstLarge:
    policy: StepPolicy
    steps: int

    @property
    def authors(self) -> set[Side]:
        return {"large", *self.policy.authors}

    def plan(self, trace: Trace) -> Plan:
        if len(trace.steps) < self.steps:
            return Write("large")
        return (yield from self.policy.plan(trace))

    def describe(self) -> str:
        return f"{self.policy.describe()} after first_large_steps={self.steps}"
