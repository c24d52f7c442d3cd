"""SpecReason (arXiv 2504.07891): the small model drafts every step, the large one grades it from 0 to 9 with one token;
a draft below the grade asked for is written anew by the large model.

As published: the grade is the token the large model is likeliest to reply with. `expected` takes the mean over all ten
grades instead, weighted by their probabilities. The judge scores of GlimpRouter's own ablation are the same signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.moves import Keep, Plan, Write, draft, score
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class SpecReason:
    """`accept` is the lowest grade that lets a draft stand. `request` asks for the grade in other words."""

    accept: Annotated[float, Within(0, 9)] = 8.0
    expected: bool = False
    request: str = ""

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        grade = yield from score(step, "large", self.request)
        value = grade.expected if self.expected else grade.likeliest
        return Keep(step) if value >= self.accept else Write("large")

    def describe(self) -> str:
        return described("specreason", self)
