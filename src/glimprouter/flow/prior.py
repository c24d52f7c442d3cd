"""What one answer may know of others: a prior, snapshotted into its trace's header, so that it can be decided again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from glimprouter.config import Routing
from glimprouter.errors import ConfigError
from glimprouter.flow.quantiles import POINTS
from glimprouter.flow.signals import ClassScale

ASSUMED_SHARE = 0.25
"""Without calibration a threshold is taken to send this share of steps to large, as the paper's did."""

ASSUMED_WEIGHT_STEPS = 10.0
"""An assumption, soon to be replaced by what is seen."""

CALIBRATED_WEIGHT_STEPS = 400.0
"""What is calibrated or learnt weighs no more than this many steps, so that a change of questions is followed."""


@dataclass(frozen=True, slots=True)
class Prior:
    """`quantiles` of the policy's signal over steps, at even shares, standing for `weight_steps` steps.

    The means are over answers (0: not known yet): steps in a thought, tokens and milliseconds of a step by large.
    `excess_steps`: steps by large beyond the target that this answer is to make good; below 0, steps it may add.
    """

    quantiles: tuple[float, ...]
    weight_steps: float
    mean_steps: float = 0.0
    mean_large_tokens: float = 0.0
    mean_large_ms: float = 0.0
    excess_steps: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration found for a pair. `threshold` is of `signal`, in its unit; `quantiles` are of it too."""

    threshold: float
    signal: str = "entropy"
    quantiles: tuple[float, ...] = ()
    mean_steps: float = 0.0
    scale: ClassScale | None = None

    def fill(self, routing: Routing) -> Routing:
        """The routing with signal and threshold settled. Raises ConfigError where one is given without the other."""
        signal = routing.signal or self.signal
        if routing.threshold is not None:
            return replace(routing, signal=signal)
        if signal != self.signal:
            raise ConfigError(
                f"signal is {signal!r}, but the threshold that holds is one of {self.signal!r}; give a threshold too, "
                f"or a profile made by `glimprouter calibrate --signal {signal}`",
                field="signal",
            )
        return replace(routing, signal=signal, threshold=self.threshold)

    def prior(self) -> Prior:
        """Where the policies that learn begin."""
        if not self.quantiles:
            return assumed(self.threshold)
        return Prior(self.quantiles, CALIBRATED_WEIGHT_STEPS, self.mean_steps)


def assumed(threshold: float) -> Prior:
    """Nothing known but a threshold: exponential, with `ASSUMED_SHARE` of steps above it."""
    scale = max(threshold, 1e-3) / -math.log(ASSUMED_SHARE)
    shares = [(place + 0.5) / POINTS for place in range(POINTS)]
    return Prior(tuple(-scale * math.log1p(-share) for share in shares), ASSUMED_WEIGHT_STEPS)
