"""Risk control: which thresholds keep their accuracy within a margin of large alone, at a stated confidence.

Learn-then-test: thresholds are fixed beforehand, on other questions, and tested one after the other from the safest
(most to large) to the cheapest, each at the full error rate; the first that fails ends it. So the chance that any
threshold passed loses more than the margin is at most 1 - confidence, however many there are.

One test is paired and exact. On each question either both are right, both wrong, only large alone right (worse) or
only the routed answer right (better). Worse minus better is the loss; its distribution under "the loss is exactly the
margin" depends on how often the two differ at all, which is bounded first, at a part of the error rate (Berger and
Boos), and then taken at its worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUISANCE_PART = 0.1
"""Of the error rate, spent on bounding how often the two differ."""

NUISANCE_POINTS = 24
MOST_QUESTIONS = 100_000
NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True)
class Paired:
    """Of `questions`, those that only large alone got right (`worse`) and those that only the routed answer did."""

    questions: int
    worse: int
    better: int

    @property
    def loss(self) -> float:
        """Accuracy of large alone minus accuracy routed."""
        return (self.worse - self.better) / max(1, self.questions)


def paired(large: Sequence[bool], routed: Sequence[bool]) -> Paired:
    """The same questions in the same order."""
    both = list(zip(large, routed, strict=True))
    return Paired(len(both), sum(a and not b for a, b in both), sum(b and not a for a, b in both))


def p_value(seen: Paired, margin: float, error_rate: float) -> float:
    """How likely so small a loss is where the true one is `margin` or more. At most 1."""
    if seen.questions < 1 or margin >= 1.0:
        return 1.0
    spent = NUISANCE_PART * error_rate
    most = max(margin, upper_rate(seen.worse + seen.better, seen.questions, spent))
    steps = [place / (NUISANCE_POINTS - 1) for place in range(NUISANCE_POINTS)]
    differing = [min(1.0, margin + (most - margin) * step) for step in steps]  # rounding may carry it past 1
    worst = max(_chance(seen, margin, rate) for rate in differing)
    return min(1.0, worst + spent)


def upper_rate(successes: int, trials: int, error_rate: float) -> float:
    """Clopper and Pearson's one-sided upper bound of a proportion."""
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial_at_most(successes, trials, middle) > error_rate else (low, middle)
    return high


def upper_loss(seen: Paired, error_rate: float) -> float:
    """The least margin that could have been promised: an upper bound of the true loss."""
    low, high = max(0.0, seen.loss), 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(seen, middle, error_rate) <= error_rate else (middle, high)
    return high


def certified(candidates: Sequence[Paired], margin: float, confidence: float) -> int:
    """How many of the candidates, safest first, pass before the first that does not."""
    error_rate = 1.0 - confidence
    for place, seen in enumerate(candidates):
        if p_value(seen, margin, error_rate) > error_rate:
            return place
    return len(candidates)


def questions_needed(seen: Paired, margin: float, confidence: float) -> int | None:
    """Roughly how many questions would pass, if they came out in the proportions seen; None where none would do."""
    if not seen.questions or seen.loss >= margin:
        return None
    error_rate = 1.0 - confidence

    def passes(questions: int) -> bool:
        scale = questions / seen.questions
        alike = Paired(questions, math.ceil(seen.worse * scale), math.floor(seen.better * scale))
        return p_value(alike, margin, error_rate) <= error_rate

    high = max(8, seen.questions)
    while not passes(high):
        high *= 2
        if high > MOST_QUESTIONS:
            return None
    low = high // 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _chance(seen: Paired, margin: float, differing: float) -> float:
    """Probability of a loss no greater than seen: `differing` of questions differ, with a mean loss of `margin`."""
    if differing <= 0.0:
        return 1.0
    worse_of_differing = min(1.0, (1.0 + margin / differing) / 2)
    net = seen.worse - seen.better
    total = covered = 0.0
    for count, weight in _likely_counts(seen.questions, differing):
        covered += weight
        # worse - better <= net, where better = count - worse
        total += weight * _binomial_at_most(math.floor((net + count) / 2), count, worse_of_differing)
    return total + max(0.0, 1.0 - covered)


def _likely_counts(trials: int, rate: float) -> list[tuple[int, float]]:
    """Numbers of successes with their probabilities, without those too rare to matter."""
    spread = 8.0 * math.sqrt(trials * rate * (1.0 - rate)) + 8.0
    low, high = max(0, math.floor(trials * rate - spread)), min(trials, math.ceil(trials * rate + spread))
    return [
        (count, weight) for count in range(low, high + 1) if (weight := _binomial(count, trials, rate)) > NEGLIGIBLE
    ]


def _binomial_at_most(successes: int, trials: int, rate: float) -> float:
    if successes < 0:
        return 0.0
    if successes >= trials:
        return 1.0
    if rate in (0.0, 1.0):
        return 1.0 - rate
    # Summed on the shorter side, from its largest term outwards.
    if successes <= trials * rate:
        return _tail(successes, trials, rate)
    return max(0.0, 1.0 - _tail(trials - successes - 1, trials, 1.0 - rate))


def _tail(successes: int, trials: int, rate: float) -> float:
    """Sum of the probabilities of at most `successes`, which are below the mean or little above it."""
    term, total, odds = _binomial(successes, trials, rate), 0.0, (1.0 - rate) / rate
    for count in range(successes, -1, -1):
        total += term
        if term < total * NEGLIGIBLE:
            break
        term *= count / (trials - count + 1) * odds
    return min(1.0, total)


def _binomial(successes: int, trials: int, rate: float) -> float:
    if rate <= 0.0 or rate >= 1.0:
        return float(successes == (trials if rate >= 1.0 else 0))
    log = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(log + successes * math.log(rate) + (trials - successes) * math.log1p(-rate))
