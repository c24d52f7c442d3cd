"""What a policy may ask for and how it decides. A policy does no I/O: it yields moves and returns a verdict."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Protocol

from glimprouter.config import Side
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class Probe:
    """Look at the first visible token of the next step as `who` sees it, and at the `tokens` - 1 after it.

    Free if `who` then writes the step: what was read is its beginning.
    """

    who: Side = "small"
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Write:
    """Verdict: `who` writes the step, to its boundary."""

    who: Side


Plan = Generator[Probe, Glimpse, Write]


class StepPolicy(Protocol):
    """Says who writes the next step, given everything written so far. Deterministic given the trace."""

    @property
    def authors(self) -> Collection[Side]:
        """The models it may let write."""
        ...

    def plan(self, trace: Trace) -> Plan: ...

    def describe(self) -> str:
        """Name and parameters, as the trace records them."""
        ...


def probe(who: Side = "small", tokens: int = 1) -> Generator[Probe, Glimpse, Glimpse]:
    """`glimpse = yield from probe()` inside a plan."""
    return (yield Probe(who, tokens))
