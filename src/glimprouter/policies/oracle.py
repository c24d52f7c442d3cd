"""The oracle: escalates exactly the steps in which the small model goes wrong. The upper bound of every policy.

It must be told which these are, by `is_right`; so it exists where a checker of steps does (the tiny suite), and is
handed to the router as an object, not named in options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Keep, Plan, Write, draft
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class Oracle:
    """`is_right` says whether a step's text goes on rightly from a thought as it stands."""

    is_right: Callable[[Trace, str], bool]

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        return Keep(step) if self.is_right(trace, step.text) else Write("large")

    def describe(self) -> str:
        return "oracle"
