"""What a sample of questions tells: proportions, means and differences with 95 % intervals. Standard library only.

The unit of every interval is the question: answers to one question resemble each other, so they are drawn together
(cluster bootstrap), and methods that answered the same questions are compared on the same draws (paired).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 2000

Statistic = Callable[[Sequence[int]], float]
"""A figure of some questions, given as their places; a place drawn twice counts twice. NaN where it is undefined."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval, all in the figure's own unit; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


class Bootstrap:
    """Resamples of `units` questions, drawn once from `seed`: all figures of a report rest on the same draws."""

    def __init__(self, units: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        if units < 1:
            raise ValueError("a bootstrap needs at least one unit")
        rng = random.Random(seed)
        self._all = range(units)
        self._draws = [rng.choices(self._all, k=units) for _ in range(resamples)]

    def estimate(self, statistic: Statistic) -> Estimate:
        """The statistic of all units with its percentile interval.

        Where it is undefined (NaN) in more resamples than lie outside one end of the interval, there is no interval.
        """
        value = _clean(statistic(self._all))
        drawn = sorted(_clean(figure) for draw in self._draws if not math.isnan(figure := statistic(draw)))
        tail = (1.0 - CONFIDENCE) / 2.0
        if math.isnan(value) or len(drawn) < (1.0 - tail) * len(self._draws):
            return Estimate(value, math.nan, math.nan)
        return Estimate(value, quantile(drawn, tail), quantile(drawn, 1.0 - tail))


def _clean(figure: float) -> float:
    """Without the noise of adding floats: what is 0 is not shown as -0.0."""
    return round(figure, 12) + 0.0


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def wilson(successes: float, trials: int) -> Estimate:
    """A plain proportion with Wilson's score interval, which stays sound near 0 and 1; for independent trials only."""
    if trials < 1:
        return UNKNOWN
    share = successes / trials
    z = statistics.NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)
    widened = 1.0 + z * z / trials
    centre = (share + z * z / (2 * trials)) / widened
    half = z / widened * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials))
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def ratio_of_sums(above: Sequence[float], below: Sequence[float]) -> Statistic:
    """Sum over sum, as shares and means of pooled answers are; NaN where the lower sum is 0."""

    def statistic(places: Sequence[int]) -> float:
        total = sum(map(below.__getitem__, places))
        return sum(map(above.__getitem__, places)) / total if total else math.nan

    return statistic


def median_at(values: Sequence[float]) -> Statistic:
    """The median of the values drawn."""
    return lambda places: statistics.median(map(values.__getitem__, places))


def cluster_mean(clusters: Sequence[Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean over all values; its interval by drawing whole clusters (a cluster: the values of one question)."""
    statistic = ratio_of_sums([math.fsum(cluster) for cluster in clusters], [len(cluster) for cluster in clusters])
    return Bootstrap(len(clusters), resamples=resamples, seed=seed).estimate(statistic)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of `first - second`, value by value of the same questions; its interval by drawing questions."""
    differences = [[a - b] for a, b in zip(first, second, strict=True)]
    return cluster_mean(differences, resamples=resamples, seed=seed)


def auroc(signal: Sequence[float], positive: Sequence[bool]) -> float:
    """How often a positive has the higher signal than a negative, ties counted half; NaN where one kind is missing."""
    order = sorted(range(len(signal)), key=signal.__getitem__)
    positives, negatives = sum(positive), len(positive) - sum(positive)
    twice_rank_sum = start = 0
    while start < len(order):
        end = start
        while end < len(order) and signal[order[end]] == signal[order[start]]:
            end += 1
        # Equal signals share the mean of their ranks, start + 1 to end.
        twice_rank_sum += (start + 1 + end) * sum(positive[place] for place in order[start:end])
        start = end
    if not (positives and negatives):
        return math.nan
    return (twice_rank_sum / 2 - positives * (positives + 1) / 2) / (positives * negatives)
