"""From a wanted figure to a threshold. The figure (a share, a ratio) rises as the threshold falls.

A threshold moves the contexts in which later steps begin, and with them the signals it was read from. So nothing is
predicted alone: each threshold is run, with routing on, and the next is read from what those runs saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SETTLED_WITHIN = 0.01
MOST_ROUNDS = 6


def above_share(values: Sequence[float], threshold: float) -> float:
    """Share of the values above a threshold."""
    return sum(value > threshold for value in values) / max(1, len(values))


def threshold_at(values: Sequence[float], share: float) -> float:
    """The threshold with `share` of the values above it, as nearly as can be.

    It lies midway between two values that occur, so that neither depends on the last digit.
    """
    ordered = sorted(values, reverse=True)
    if not ordered:
        return 0.0
    cuts = [(0, ordered[0] * 1.01 + 0.01)]
    for count in range(1, len(ordered) + 1):
        below = ordered[count] if count < len(ordered) else 0.0
        if below < ordered[count - 1]:
            cuts.append((count, (ordered[count - 1] + below) / 2))
    return rounded(min(cuts, key=lambda cut: abs(cut[0] - share * len(ordered)))[1])


def rounded(threshold: float) -> float:
    """To the digits that a profile keeps."""
    return float(f"{threshold:.4g}")


@dataclass(slots=True)
class Search:
    """Regula falsi over the share of steps above the threshold. Runs of other searches may be taken too.

    `at_most`: the figure is a bound, and of two thresholds as near to it the one below is better.
    """

    target: float
    lowest: float
    highest: float = 1.0
    at_most: bool = False
    rounds: int = 0
    _figures: dict[float, float] = field(default_factory=dict)
    _nearest_values: Sequence[float] = ()

    def take(self, threshold: float, figure: float, values: Sequence[float]) -> None:
        """What a run gave: its figure, and the signals of its steps. `threshold` may be infinite."""
        self._figures[threshold] = figure
        if self.nearest() in (None, threshold) or not self._nearest_values:
            self._nearest_values = values

    def nearest(self) -> float | None:
        """The threshold whose figure came nearest; None before any was run."""
        run = [threshold for threshold in self._figures if math.isfinite(threshold)]
        within = [one for one in run if self._figures[one] <= self.target + SETTLED_WITHIN] if self.at_most else run
        return min(within or run, key=lambda one: (abs(self._figures[one] - self.target), -one), default=None)

    def figure(self, threshold: float) -> float:
        return self._figures[threshold]

    @property
    def settled(self) -> bool:
        """False where the figure jumps past the target, as where many steps have the same signal."""
        nearest = self.nearest()
        return nearest is not None and abs(self._figures[nearest] - self.target) <= 3 * SETTLED_WITHIN

    def next_threshold(self) -> float | None:
        """A threshold to run next, or None where there is no need or nothing between those that were run."""
        nearest = self.nearest()
        if nearest is not None and abs(self._figures[nearest] - self.target) <= SETTLED_WITHIN:
            return None
        if self.rounds == MOST_ROUNDS:
            return None
        self.rounds += 1
        under = [(figure, -one) for one, figure in self._figures.items() if figure <= self.target]
        over = [(figure, -one) for one, figure in self._figures.items() if figure > self.target]
        low_figure, low = max(under, default=(self.lowest, -math.inf))
        high_figure, high = min(over, default=(self.highest, 0.0))
        first, last = above_share(self._nearest_values, -low), above_share(self._nearest_values, -high)
        if not over:
            last = 1.0
        inside = (self.target - low_figure) / max(1e-9, high_figure - low_figure)
        read = threshold_at(self._nearest_values, first + inside * (last - first))
        if -high < read < -low and read not in self._figures:
            return read
        middle = rounded((-high - low) / 2) if math.isfinite(low) else math.inf
        return middle if -high < middle < -low and middle not in self._figures else None
