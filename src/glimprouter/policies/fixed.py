"""One model writes the whole thought: the two ends of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class Fixed:
    who: Side

    @property
    def authors(self) -> tuple[Side]:
        return (self.who,)

    def plan(self, trace: Trace) -> Plan:
        yield from ()
        return Write(self.who)

    def describe(self) -> str:
        return self.who
