"""Random made equal to a method: in its share of large tokens, or in its wall time.

Two runs of Random enclose the method's figure and are mixed. With weight w on the upper one, w is chosen so that the
mixture's pooled figure is exactly the method's, here for shares of tokens:

    ((1 - w) L_low + w L_high) / ((1 - w) T_low + w T_high) = L_method / T_method

(L: tokens by the large model, T: all thought tokens, summed over the questions). It stands for a Random that flips a
coin before each question; nothing is assumed about what happens between the two probabilities. In a bootstrap w is
chosen anew for each resample, so that intervals carry the uncertainty of the match. Small thinking alone and the large
model alone are Random at 0 and 1, so they serve as the outermost runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.evaluate.columns import FIELDS, Column


@dataclass(frozen=True, slots=True)
class Matched:
    """What is made equal: the sum of one field over the sum of another."""

    above: str
    below: str

    def of(self, column: Column, places: Sequence[int]) -> float:
        above, below = self.sums(column, places)
        return above / below if below else 0.0

    def sums(self, column: Column, places: Sequence[int]) -> tuple[float, float]:
        above, below = column.values[self.above], column.values[self.below]
        return sum(map(above.__getitem__, places)), sum(map(below.__getitem__, places))


SHARE = Matched("large_tokens", "tokens")
LATENCY = Matched("wall_ms", "answers")


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two Random runs, weighted to a figure of `target`."""

    low: Column
    high: Column
    target: Column
    matched: Matched = SHARE

    def raw_weight(self, places: Sequence[int]) -> float:
        """Of the upper run; outside 0 to 1 where the two runs do not enclose the target's figure."""
        low_above, low_below = self.matched.sums(self.low, places)
        high_above, high_below = self.matched.sums(self.high, places)
        figure = self.matched.of(self.target, places)
        slope = (high_above - low_above) - figure * (high_below - low_below)
        return (figure * low_below - low_above) / slope if slope else 0.0

    def weight(self, places: Sequence[int]) -> float:
        return min(1.0, max(0.0, self.raw_weight(places)))

    def accuracy(self, places: Sequence[int]) -> float:
        weight = self.weight(places)
        return (1.0 - weight) * self.low.accuracy(places) + weight * self.high.accuracy(places)

    def column(self, places: Sequence[int]) -> Column:
        """The mixture question by question, at the weight that `places` give."""
        weight = self.weight(places)
        values = {
            field: [
                (1.0 - weight) * low + weight * high
                for low, high in zip(self.low.values[field], self.high.values[field], strict=True)
            ]
            for field in FIELDS
        }
        unanswered = (1 - weight) * self.low.unanswered + weight * self.high.unanswered
        return Column("random", values, {}, round(unanswered))


def mixture_for(target: Column, runs: Sequence[Column], matched: Matched = SHARE) -> Mixture | None:
    """The nearest two of Random's `runs`, given by rising probability, that enclose the target's figure, if any do."""
    everything = range(len(target.values["answers"]))
    figure = matched.of(target, everything)
    for low, high in itertools.pairwise(runs):
        if matched.of(low, everything) <= figure <= matched.of(high, everything):
            return Mixture(low, high, target, matched)
    return None
