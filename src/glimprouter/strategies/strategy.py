"""What a strategy is, and the one that does nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from glimprouter.config import SIDES, Param, Routing, Side
from glimprouter.flow.request import Request
from glimprouter.flow.trace import ModelUsage, Trace
from glimprouter.router import Router

Extract = Callable[[str], str | None]
"""From an answer's text to what it states, None where it states nothing."""


class Strategy(Protocol):
    """Has a router answer a request. Raises what `Router.answer` raises."""

    async def answer(self, router: Router, request: Request, *, extract: Extract) -> Trace:
        """The trace of the answer that stands; others that were asked for are its `attempts`."""
        ...

    def describe(self) -> str:
        """Name and parameters, as the trace records them."""
        ...


@dataclass(frozen=True, slots=True)
class Routed:
    """The default: one answer, each step by the policy that the request names."""

    async def answer(self, router: Router, request: Request, *, extract: Extract) -> Trace:  # noqa: ARG002
        return await router.answer(request)

    def describe(self) -> str:
        return "routed"


def alone(request: Request, who: Side) -> Request:
    """The request, thought and answered by one model; of small the entropies of all tokens are noted."""
    params: dict[str, Param] = {"threshold": 100.0} if who == "small" else {}
    routing: Routing = replace(
        request.routing,
        # A step policy that drafts and always keeps, for a draft's entropies stand in the trace.
        policy="step-entropy" if who == "small" else "large",
        params=params,
        threshold=None,
        first_large_steps=0,
        answer_by=who,
    )
    return replace(request, routing=routing)


def standing(trace: Trace, attempts: Sequence[Trace], strategy: Strategy, *, wall_ms: float, before_ms: float) -> Trace:
    """The answer that stands, with the cost of all: `before_ms` had passed when it began, `wall_ms` at the end."""
    trace.attempts = list(attempts)
    trace.policy = strategy.describe()
    for side in SIDES:
        usage = trace.usage_of(side)
        for attempt in attempts:
            _add(usage, attempt.usage_of(side))
    trace.first_token_ms += before_ms
    trace.thought_ms += before_ms
    trace.wall_ms = wall_ms
    return trace


def _add(usage: ModelUsage, other: ModelUsage) -> None:
    """What another attempt drew does not stand in the answer: it counts as discarded."""
    for name in ModelUsage.__struct_fields__[1:]:
        if name != "new_tokens":
            setattr(usage, name, getattr(usage, name) + getattr(other, name))
    usage.discarded_tokens += other.new_tokens
