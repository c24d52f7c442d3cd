"""What is compared: one row of the table each, made from the same routing options so that only the writers differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glimprouter.config import Routing
from glimprouter.errors import ConfigError

METHODS = {
    "small": "the small model alone",
    "large": "the large model alone, streamed through the router",
    "share0": "small thinks, large answers: the zero point, for the large model writes every routed answer",
    "glimpse": "GlimpRouter at the threshold",
    "random": "steps to the large model at random, at glimpse's share of thought tokens",
    "random-positions": "steps to the large model where glimpse sent them on another question of the family",
    "large-unstreamed": "the large model alone in one blocking request, as without this program",
}
"""Names that `--methods` takes, and what they are."""

RANDOM_LOW, RANDOM_HIGH = "random-low", "random-high"
RANDOM_POSITIONS = "random-positions"
BRACKET = 0.1
"""How far below and above the expected share the two Random runs lie, so that they enclose the one glimpse reaches."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row: how its answers are routed. An unstreamed one is asked of the large engine directly."""

    name: str
    routing: Routing
    unstreamed: bool = False


def check_methods(names: Sequence[str]) -> None:
    """Raises ConfigError for an unknown name, one given twice, none at all, and random without glimpse."""
    accepted = f"accepted: {', '.join(METHODS)}"
    if not names:
        raise ConfigError(f"--methods is empty; {accepted}", field="methods")
    for place, name in enumerate(names):
        if name not in METHODS:
            raise ConfigError(f"--methods names {name!r}; {accepted}", field="methods")
        if name in names[:place]:
            raise ConfigError(f"--methods names {name!r} twice; name each once", field="methods")
    matched = next((name for name in ("random", RANDOM_POSITIONS) if name in names), None)
    if matched and "glimpse" not in names:
        raise ConfigError(
            f"--methods names {matched} without glimpse, which it is to match; add glimpse", field="methods"
        )


def methods_of(names: Sequence[str], routing: Routing, *, threshold_nats: float, random_p: float) -> list[Method]:
    """The rows that some names stand for. Random is two: it is run below and above the share it has to match."""
    rows: list[Method] = []
    for name in names:
        if name == "random":
            rows += random_bracket(routing, random_p)
        elif name == RANDOM_POSITIONS:
            rows.append(Method(name, replace(routing, policy="pattern", threshold=None, answer_by="large")))
        elif name == "glimpse":
            rows.append(glimpse_at(routing, threshold_nats, name=name))
        else:
            rows.append(_fixed(name, routing))
    return rows


def glimpse_at(routing: Routing, threshold_nats: float, *, name: str | None = None) -> Method:
    """GlimpRouter at a threshold, in nats."""
    routed = replace(routing, policy="glimpse", threshold=threshold_nats, answer_by="large")
    return Method(name or f"glimpse@{threshold_nats:g}", routed)


def zero_point(routing: Routing) -> Method:
    return _fixed("share0", routing)


def random_bracket(routing: Routing, p: float) -> list[Method]:
    """Random with probabilities of the large model around `p`."""
    ends = {RANDOM_LOW: max(0.0, p - BRACKET), RANDOM_HIGH: min(1.0, p + BRACKET)}
    return [random_at(routing, round(end, 4), name=name) for name, end in ends.items()]


def random_at(routing: Routing, p: float, *, name: str | None = None) -> Method:
    """Random with one probability of the large model."""
    routed = replace(routing, policy="random", threshold=None, random_p=p, answer_by="large")
    return Method(name or f"random@{p:g}", routed)


def _fixed(name: str, routing: Routing) -> Method:
    writer = "large" if name.startswith("large") else "small"
    routed = replace(
        routing, policy=writer, answer_by="small" if name == "small" else "large", threshold=None, first_large_steps=0
    )
    return Method(name, routed, unstreamed=name == "large-unstreamed")
