"""A model that has taken over stays for a number of steps, whatever a policy would say: for engines where it is dear
to come back (hybrid attention, no prefix cache)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.flow.moves import Plan, StepPolicy, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class MinStay:
    policy: StepPolicy
    small_steps: int
    large_steps: int

    @property
    def authors(self) -> Collection[Side]:
        return self.policy.authors

    def plan(self, trace: Trace) -> Plan:
        if trace.steps:
            author = trace.steps[-1].author
            least = self.small_steps if author == "small" else self.large_steps
            stayed = len(trace.steps) >= least and all(step.author == author for step in trace.steps[-least:])
            if not stayed and not trace.steps[-1].loop_cycle_steps:
                return Write(author)
        return (yield from self.policy.plan(trace))

    def describe(self) -> str:
        return f"{self.policy.describe()} min_stay(small={self.small_steps}, large={self.large_steps})"
