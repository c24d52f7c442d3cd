"""Majority vote: the small model answers several times at once, and the answer most of them state stands.

Self-consistency (arXiv 2203.11171) by the small model alone. Among equals the answer that was asked for first stands.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated

from glimprouter.flow.request import Request
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described
from glimprouter.router import Router
from glimprouter.strategies.strategy import Extract, alone, standing


@dataclass(frozen=True, slots=True)
class Vote:
    votes: Annotated[int, Within(2, 1000)] = 5

    async def answer(self, router: Router, request: Request, *, extract: Extract) -> Trace:
        begun = time.perf_counter()
        request = alone(request, "small")
        traces = await asyncio.gather(*(router.answer(_voter(request, number)) for number in range(self.votes)))
        stated = [extract(trace.answer_text) for trace in traces]
        counts = Counter(answer for answer in stated if answer is not None)
        chosen = stated.index(counts.most_common(1)[0][0]) if counts else 0
        others = [trace for number, trace in enumerate(traces) if number != chosen]
        wall_ms = (time.perf_counter() - begun) * 1000
        return standing(traces[chosen], others, self, wall_ms=wall_ms, before_ms=0.0)

    def describe(self) -> str:
        return described("vote", self)


def _voter(request: Request, number: int) -> Request:
    """The same request with a seed of its own; the first keeps the request's."""
    if not number:
        return request
    seed = blake2b(f"{request.sampling.seed}/vote/{number}".encode(), digest_size=4).digest()
    return replace(request, sampling=replace(request.sampling, seed=int.from_bytes(seed, "big")))
