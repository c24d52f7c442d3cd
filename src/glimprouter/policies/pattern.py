"""A pattern: who wrote each step of some other answer writes that step of this one; small after its end.

With patterns that GlimpRouter left on other questions this is Random matched to its step positions and hand-overs: what
GlimpRouter is better by, it knows from the glimpses of this very question.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES, Side
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace

LETTERS: dict[str, Side] = {"s": "small", "L": "large"}


@dataclass(frozen=True, slots=True)
class PatternPolicy:
    """`pattern` has a letter for each step: s for small, L for large."""

    pattern: str = ""

    authors = SIDES

    def __post_init__(self) -> None:
        if not set(self.pattern) <= LETTERS.keys():
            raise ConfigError(f"pattern is {self.pattern!r}; accepted: a letter s or L for each step", field="pattern")

    def plan(self, trace: Trace) -> Plan:
        yield from ()
        step = len(trace.steps)
        return Write(LETTERS[self.pattern[step]] if step < len(self.pattern) else "small")

    def describe(self) -> str:
        return f"pattern({self.pattern})"
