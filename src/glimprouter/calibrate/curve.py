"""The curve: what each threshold that was run gave, with intervals over questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.calibrate.answers import Answer
from glimprouter.stats import UNKNOWN, Bootstrap, Estimate, ratio_of_sums, wilson

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Prices:
    """What a token costs, in units of one that the large model writes: written by small, and read by either."""

    small: float = 0.1
    read: float = 0.2

    def cost(self, answer: Answer) -> float:
        sides = ((answer.small_tokens, self.small), (answer.large_tokens, 1.0))
        return sum(price * (self.read * read + written) for (read, written), price in sides)


@dataclass(frozen=True, slots=True)
class Point:
    """A threshold on some questions; infinite: small thinks alone. Ratios are to large alone on the same questions."""

    threshold: float
    questions: int
    step_share: Estimate
    token_share: Estimate
    accuracy: Estimate = UNKNOWN
    latency_ratio: Estimate = UNKNOWN
    cost_ratio: Estimate = UNKNOWN


def point_of(threshold: float, answers: Sequence[Answer], large: Sequence[Answer], prices: Prices) -> Point:
    """`large`: the answers of large alone to the same questions, in the same order; may be empty."""
    draws = Bootstrap(len(answers), resamples=RESAMPLES)

    def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
        return draws.estimate(ratio_of_sums(above, below))

    graded = [answer.right for answer in answers if answer.right is not None]
    return Point(
        threshold,
        len(answers),
        ratio([one.large_steps for one in answers], [len(one.steps) for one in answers]),
        ratio([one.large_thought_tokens for one in answers], [one.thought_tokens for one in answers]),
        wilson(sum(graded), len(graded)),
        ratio([one.wall_ms for one in answers], [one.wall_ms for one in large]) if large else UNKNOWN,
        ratio([prices.cost(one) for one in answers], [prices.cost(one) for one in large]) if large else UNKNOWN,
    )


def falling(points: Sequence[Point]) -> list[Point]:
    """From small alone to the lowest threshold."""
    return sorted(points, key=lambda point: -point.threshold if not math.isnan(point.threshold) else -math.inf)
