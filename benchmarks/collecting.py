"""Collects every signal of every step: the small model drafts it, the large one grades it, whatever is made of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Keep, Plan, Write, draft, score
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class Collect:
    """Drafts stand, unless `is_right` says that they go wrong: then the large model sets the thought right again, so
    that what is collected is how single steps go wrong, not what follows from it."""

    is_right: Callable[[Trace, str], bool] | None = None

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        yield from score(step, "large")
        right = self.is_right is None or self.is_right(trace, step.text)
        return Keep(step) if right else Write("large")

    def describe(self) -> str:
        return "collect" if self.is_right is None else "collect, set right"
