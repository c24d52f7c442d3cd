"""Whole-answer cascade: the small model answers alone; where it was unsure the large one answers anew.

What cascades over whole queries do (FrugalGPT, arXiv 2305.05176), with the small model's own entropy in place of a
trained scorer. The small model's answer is paid for in either case.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

from glimprouter.flow.request import Request
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described
from glimprouter.router import Router
from glimprouter.strategies.doubt import Signal, doubt_nats
from glimprouter.strategies.strategy import Extract, alone, standing


@dataclass(frozen=True, slots=True)
class Cascade:
    """Large answers anew where the mean entropy of the small model's thought is above `threshold` (nats)."""

    threshold: Annotated[float, Within(0, 100)]
    signal: Signal = "token_entropy"

    async def answer(self, router: Router, request: Request, *, extract: Extract) -> Trace:  # noqa: ARG002
        begun = time.perf_counter()
        first = await router.answer(alone(request, "small"))
        passed_ms = (time.perf_counter() - begun) * 1000
        if doubt_nats(first, self.signal) <= self.threshold:
            return standing(first, [], self, wall_ms=passed_ms, before_ms=0.0)
        second = await router.answer(alone(request, "large"))
        return standing(second, [first], self, wall_ms=(time.perf_counter() - begun) * 1000, before_ms=passed_ms)

    def describe(self) -> str:
        return described("cascade", self)
