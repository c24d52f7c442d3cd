"""One model writes the whole thought: the two ends of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class Fixed:
    who: Side

    def plan(self, trace: Trace) -> Plan:
        return Write(self.who)
        yield  # a plan is a generator, also one that asks nothing

    def describe(self) -> str:
        return self.who
