"""Hysteresis: one level to hand over to large, a lower one to take back, a least stay; no flip-flop between them."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES, number
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.signals import Signal
from glimprouter.flow.trace import Trace


@dataclass(frozen=True, slots=True)
class HysteresisOptions:
    """`leave_ratio`: the lower level as a share of the threshold. `min_stay_steps`: that large writes at least.

    `handover_cost_steps`: what a hand-over there and back costs, in steps; `glimprouter doctor` measures it.
    """

    leave_ratio: float = 0.5
    min_stay_steps: int = 2
    handover_cost_steps: float = 0.25

    def __post_init__(self) -> None:
        number("leave_ratio", self.leave_ratio, 0.0, 1.0)
        number("min_stay_steps", self.min_stay_steps, 1, 10**4)
        number("handover_cost_steps", self.handover_cost_steps, 0.0, 1e4)


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """Small writes up to `enter`, large from there down to `leave`; between them whoever wrote last goes on.

    A hand-over costs a part of a step and is paid back over the stay that follows: cost / stay widens the band.
    """

    options: HysteresisOptions
    threshold: float
    signal: Signal

    authors = SIDES

    @property
    def enter(self) -> float:
        return self.threshold * self._widening

    @property
    def leave(self) -> float:
        return self.threshold * self.options.leave_ratio / self._widening

    @property
    def _widening(self) -> float:
        return 1.0 + self.options.handover_cost_steps / self.options.min_stay_steps

    def plan(self, trace: Trace) -> Plan:
        steps = trace.steps
        if steps and steps[-1].loop_cycle_steps:
            return Write("large")
        stay = self.options.min_stay_steps
        is_large = bool(steps) and steps[-1].author == "large"
        if is_large and not (len(steps) >= stay and all(step.author == "large" for step in steps[-stay:])):
            return Write("large")
        glimpse = yield from probe("small", self.signal.tokens)
        level = self.leave if is_large else self.enter
        return Write("large" if self.signal.measure(glimpse) > level else "small")

    def describe(self) -> str:
        stay = self.options.min_stay_steps
        return f"hysteresis(enter={self.enter:.4g}, leave={self.leave:.4g}, stay={stay}, {self.signal.name})"
