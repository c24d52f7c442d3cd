"""SpecCoT (Shi et al., Findings of EMNLP 2025): the small model drafts a step several times, the large one picks a
draft with one token or rejects them all and writes the step itself.

Differences: the drafts are drawn one after another, not in one batch. Instead of an option "none of these" a draft is
rejected whose share of the choice is below `least_share`. The direction that the large model gives first is
`first_large_steps`. At temperature 0 all drafts are equal: there is nothing to choose, and the draft stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.judging import LETTERS
from glimprouter.flow.moves import Keep, Plan, Write, choose, draft
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class SpecCoT:
    """`least_share` is the least probability, among the letters of the drafts, at which the one picked stands."""

    drafts: Annotated[int, Within(2, len(LETTERS))] = 3
    least_share: Annotated[float, Within(0, 1)] = 0.5
    request: str = ""

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        different: dict[str, Drafted] = {}
        for _ in range(self.drafts):
            step = yield from draft("small")
            different.setdefault(step.text.strip(), step)
        steps = list(different.values())
        if len(steps) == 1:
            return Keep(steps[0])
        chosen = yield from choose(steps, "large", self.request)
        if chosen.index is None or chosen.shares[chosen.index] < self.least_share:
            return Write("large")
        return Keep(steps[chosen.index])

    def describe(self) -> str:
        return described("speccot", self)
