"""The names under which the pair can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from glimprouter.config import Routing, Side
from glimprouter.gateway.errors import ApiError

ROUTED = "glimprouter"
NAMES = (ROUTED, "small", "large")


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers: how it is routed, and which model's server takes what is not routed. `name` is without threshold."""

    name: str
    routing: Routing
    passed_to: Side


def target_of(model: str, routing: Routing) -> Target:
    """Raises ApiError 404 for a name that is none."""
    if model == ROUTED:
        return Target(ROUTED, routing, "large")
    if model in ("small", "large"):
        side: Side = "small" if model == "small" else "large"
        return Target(model, replace(routing, policy=side, answer_by=side, first_large_steps=0, warm=False), side)
    name, at, threshold = model.partition("@")
    if name == ROUTED and at and (nats := _nats(threshold)) is not None:
        return Target(ROUTED, replace(routing, policy="glimpse", threshold=nats), "large")
    raise ApiError(
        404, f"no such model; there are {', '.join(NAMES)} and {ROUTED}@NATS", param="model", code="model_not_found"
    )


def _nats(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 100 else None
