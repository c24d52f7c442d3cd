"""What a sample of questions tells: proportions, means and differences with 95 % intervals. Standard library only.

The unit of every interval is the question: answers to one question resemble each other, so they are drawn together
(cluster bootstrap), and methods that answered the same questions are compared on the same draws (paired).
"""

from __future__ import annotations

import itertools
import math
import operator
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 2000
RANKING_RESAMPLES = 1000
"""Of statistics that look at every step, of which there are many more than questions."""

PERMUTATIONS = 10_000

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


def sign_flip_p(differences: Sequence[float], *, draws: int = PERMUTATIONS, seed: int = 0) -> float:
    """Paired permutation test, two-sided: how often a sum as far from 0 comes up where each sign is a coin's.

    `differences` are of the same questions by two methods; if the methods are alike, either sign was as likely. Exact
    for whole numbers (counts of right answers), else from `draws` draws, the observed one among them.
    """
    moved = [value for value in differences if value]
    if all(float(value).is_integer() for value in moved):
        return _exact_sign_flip_p([abs(int(value)) for value in moved], abs(round(math.fsum(moved))))
    observed = abs(math.fsum(moved)) - 1e-9
    rng, hits = random.Random(seed), 1
    for _ in range(draws):
        signs = rng.choices((-1.0, 1.0), k=len(moved))
        hits += abs(sum(map(operator.mul, moved, signs))) >= observed
    return hits / (draws + 1)


def _exact_sign_flip_p(sizes: Sequence[int], observed: int) -> float:
    """Adds one difference after another to the distribution of the sum; `chance` is indexed by sum + total so far."""
    chance = [1.0]
    for size in sizes:
        padding = [0.0] * (2 * size)
        chance = [(low + high) / 2.0 for low, high in zip(chance + padding, padding + chance, strict=True)]
    middle = len(chance) // 2
    return min(1.0, math.fsum(p for place, p in enumerate(chance) if abs(place - middle) >= observed))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests made at once, corrected (Holm 1979): 0.05 then holds for all of them together."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


@dataclass(frozen=True, slots=True)
class Scored:
    """A step of a question, the score that is to tell whether it is wrong, and whether it would be right if sent on."""

    question: str
    score: float
    wrong: bool
    right_if_sent: bool = True


class _Ranked:
    """Steps from the lowest score up; those with the same score are one group, for nothing tells them apart."""

    def __init__(self, cases: Sequence[Scored]) -> None:
        ordered = sorted(cases, key=lambda case: case.score)
        self.questions = list(dict.fromkeys(case.question for case in cases))
        numbers = {question: number for number, question in enumerate(self.questions)}
        self._numbers = [numbers[case.question] for case in ordered]
        self._wrong = [float(case.wrong) for case in ordered]
        self._gain = [float(case.right_if_sent) - float(not case.wrong) for case in ordered]
        last = len(ordered) - 1
        self._ends = [
            place + 1 for place, case in enumerate(ordered) if place == last or ordered[place + 1].score > case.score
        ]

    def _sums(self, values: Sequence[float], drawn: Counter[int]) -> list[float]:
        """Of the values up to the end of each group; a step counts as often as its question was drawn."""
        weights = map(drawn.__getitem__, self._numbers)
        sums = list(itertools.accumulate(map(operator.mul, values, weights), initial=0.0))
        return [0.0, *map(sums.__getitem__, self._ends)]

    def auroc(self, places: Sequence[int]) -> float:
        drawn = Counter(places)
        wrong, right = self._sums(self._wrong, drawn), self._sums([1.0 - wrong for wrong in self._wrong], drawn)
        pairs = wrong[-1] * right[-1]
        groups = zip(itertools.pairwise(wrong), itertools.pairwise(right), strict=True)
        return sum((b - a) * (c + d) / 2.0 for (a, b), (c, d) in groups) / pairs if pairs else math.nan

    def escalation_area(self, places: Sequence[int]) -> float:
        drawn = Counter(places)
        steps, wrong = self._sums([1.0] * len(self._numbers), drawn), self._sums(self._wrong, drawn)
        gain = self._sums(self._gain, drawn)
        right = steps[-1] - wrong[-1]
        # Sent on are the steps from some group up; what stays below keeps its own result.
        return (
            area_under([(steps[-1] - kept, right + gain[-1] - below) for kept, below in zip(steps, gain, strict=True)])
            / steps[-1]
        )


def cluster_auroc(cases: Sequence[Scored], *, resamples: int = RANKING_RESAMPLES, seed: int = 0) -> Estimate:
    """How often a wrong step scores above a right one (ties count half); its interval by drawing questions."""
    return _ranking(cases, _Ranked.auroc, resamples, seed)


def escalation_area(cases: Sequence[Scored], *, resamples: int = RANKING_RESAMPLES, seed: int = 0) -> Estimate:
    """Area under the accuracy-share curve: mean share of right steps over all shares of steps sent on, the highest
    scores first. A score that tells nothing gives the mean of sending none and sending all."""
    return _ranking(cases, _Ranked.escalation_area, resamples, seed)


def _ranking(
    cases: Sequence[Scored], figure: Callable[[_Ranked, Sequence[int]], float], resamples: int, seed: int
) -> Estimate:
    if not cases:
        return UNKNOWN
    ranked = _Ranked(cases)
    bootstrap = Bootstrap(len(ranked.questions), resamples=resamples, seed=seed)
    return bootstrap.estimate(lambda places: figure(ranked, places))


def area_under(points: Sequence[tuple[float, float]]) -> float:
    """Mean height of the line through (x, y) points over the span of x that they cover; NaN for fewer than two."""
    ordered = sorted(points)
    span = ordered[-1][0] - ordered[0][0] if ordered else 0.0
    if span <= 0.0:
        return math.nan
    return sum((b - a) * (c + d) / 2.0 for (a, c), (b, d) in itertools.pairwise(ordered)) / span


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
