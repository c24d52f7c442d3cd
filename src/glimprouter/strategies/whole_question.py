"""Whole-question routing: a look at the small model's first thoughts says which model answers the question alone.

What query routers do (RouteLLM, arXiv 2406.18665), with the small model's own entropy in place of a trained router: it
thinks for `look_tokens`, and where it is unsure by then the large model has the question. What was thought in the look
is drawn again by the small model if it keeps the question; its prefix is cached.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated

from glimprouter.config import Side
from glimprouter.flow.request import Request
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described
from glimprouter.router import Router
from glimprouter.strategies.doubt import Signal, doubt_nats
from glimprouter.strategies.strategy import Extract, alone, standing


@dataclass(frozen=True, slots=True)
class WholeQuestion:
    """Large has the question where the mean entropy of the look is above `threshold` (nats)."""

    threshold: Annotated[float, Within(0, 100)]
    signal: Signal = "token_entropy"
    look_tokens: Annotated[int, Within(1, 100_000)] = 32

    async def answer(self, router: Router, request: Request, *, extract: Extract) -> Trace:  # noqa: ARG002
        begun = time.perf_counter()
        look = await router.answer(self._look(request))
        passed_ms = (time.perf_counter() - begun) * 1000
        who: Side = "large" if doubt_nats(look, self.signal) > self.threshold else "small"
        trace = await router.answer(alone(request, who))
        return standing(trace, [look], self, wall_ms=(time.perf_counter() - begun) * 1000, before_ms=passed_ms)

    def _look(self, request: Request) -> Request:
        request = alone(request, "small")
        budget = min(self.look_tokens, request.routing.max_thinking_tokens)
        return replace(request, routing=replace(request.routing, max_thinking_tokens=budget, max_answer_tokens=1))

    def describe(self) -> str:
        return described("whole-question", self)
