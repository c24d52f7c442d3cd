"""From a wanted large share to a threshold, on questions that no report ever asks.

A threshold moves the contexts in which later steps begin, and with them the entropies it was read from. So a share is
never predicted alone: each threshold is run, with routing on, and the next one is read from what that run saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glimprouter.config import Routing
from glimprouter.evaluate.methods import Method, glimpse_at, zero_point
from glimprouter.evaluate.records import Outcome
from glimprouter.stats import Estimate, cluster_mean, wilson

CURVE_SHARES = (0.1, 0.25, 0.5, 0.75)
"""Large shares of tokens, as the zero point's entropies predict them, at which the curve is measured."""

SWEEP_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
SETTLED_WITHIN = 0.01
"""Of the target share: near enough to stop."""

MOST_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold did on the questions. Shares are pooled; NaN nats stand for small thinking alone."""

    threshold_nats: float
    step_share: float
    token_share: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """The curve, in falling order of threshold, and the point of it that came nearest to the target."""

    target_share: float
    questions: int
    curve: tuple[Point, ...]
    chosen: Point

    @property
    def settled(self) -> bool:
        """False where the share jumps past the target, as it does where many steps have the same entropy."""
        return abs(self.chosen.token_share - self.target_share) <= 3 * SETTLED_WITHIN


def threshold_for(glimpses: Iterable[tuple[float, int]], share: float) -> float:
    """The threshold (nats) above which steps of (entropy, tokens) hold `share` of all tokens, as nearly as can be.

    It lies midway between two entropies that occur, so that neither depends on the last digit.
    """
    ordered = sorted(glimpses, reverse=True)
    if not ordered:
        return 0.0
    wanted = share * sum(tokens for _, tokens in ordered)
    cuts = [(0, math.inf, ordered[0][0])]
    above = 0
    for place, (entropy, tokens) in enumerate(ordered):
        above += tokens
        below = ordered[place + 1][0] if place + 1 < len(ordered) else 0.0
        if below < entropy:
            cuts.append((above, entropy, below))
    _, high, low = min(cuts, key=lambda cut: abs(cut[0] - wanted))
    return _rounded(low + 0.01 if math.isinf(high) else (high + low) / 2)


def _rounded(threshold_nats: float) -> float:
    return float(f"{threshold_nats:.4g}")


def pooled_glimpses(outcomes: Iterable[Outcome]) -> list[tuple[float, int]]:
    return [glimpse for outcome in outcomes for glimpse in outcome.glimpses]


def token_share(outcomes: Sequence[Outcome]) -> float:
    """Share of all thought tokens that the large model wrote."""
    return sum(outcome.large_tokens for outcome in outcomes) / max(1, sum(outcome.tokens for outcome in outcomes))


def step_share(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.large_steps for outcome in outcomes) / max(1, sum(outcome.steps for outcome in outcomes))


class Calibrator:
    """Says which method to run next on the calibration questions, and takes what came of it.

    First the zero point (small thinks alone), then the curve, then thresholds that close in on the target. What it asks
    for depends on the outcomes alone, so a run that was killed goes through the same thresholds again, from its file.
    """

    def __init__(self, routing: Routing, target_share: float) -> None:
        self._routing = routing
        self._target = target_share
        self._points: list[Point] = []
        self._runs: dict[float, Sequence[Outcome]] = {}
        self._rounds = 0
        self._pending: list[float] | None = None
        self._questions = 0

    def next_method(self) -> Method | None:
        """The method to run next; None when the share has settled."""
        if self._pending is None:
            return zero_point(self._routing)
        if self._pending:
            return glimpse_at(self._routing, self._pending[0])
        threshold_nats = self._closer() if self._rounds < MOST_ROUNDS else None
        if threshold_nats is None:
            return None
        self._rounds += 1
        self._pending = [threshold_nats]
        return glimpse_at(self._routing, threshold_nats)

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the method asked for last."""
        if self._pending is None:
            self._questions = len({outcome.key.question for outcome in outcomes})
            glimpses = pooled_glimpses(outcomes)
            shares = sorted({*CURVE_SHARES, self._target})
            self._pending = sorted({threshold_for(glimpses, share) for share in shares}, reverse=True)
            self._points.append(_point(math.nan, outcomes))
            return
        threshold_nats = self._pending.pop(0)
        self._runs[threshold_nats] = outcomes
        self._points.append(_point(threshold_nats, outcomes))

    def result(self) -> Calibration:
        curve = sorted(self._points, key=_nats, reverse=True)
        return Calibration(self._target, self._questions, tuple(curve), self._nearest())

    def _nearest(self) -> Point:
        measured = [point for point in self._points if not math.isnan(point.threshold_nats)]
        return min(measured, key=lambda point: (abs(point.token_share - self._target), -point.threshold_nats))

    def _closer(self) -> float | None:
        """A threshold not run yet that should come closer, or None where there is none or no need."""
        nearest = self._nearest()
        if abs(nearest.token_share - self._target) <= SETTLED_WITHIN:
            return None
        thresholds = [point.threshold_nats for point in self._points if point.token_share > self._target]
        low = max((value for value in thresholds if not math.isnan(value)), default=0.0)
        high = min((point.threshold_nats for point in self._points if self._is_below(point)), default=math.inf)
        read = threshold_for(pooled_glimpses(self._runs[nearest.threshold_nats]), self._target)
        if low < read < high and read not in self._runs:
            return read
        middle = _rounded((low + high) / 2) if math.isfinite(high) else math.inf
        return middle if low < middle < high and middle not in self._runs else None

    def _is_below(self, point: Point) -> bool:
        return point.token_share < self._target and not math.isnan(point.threshold_nats)


def _nats(point: Point) -> float:
    return math.inf if math.isnan(point.threshold_nats) else point.threshold_nats


def _point(threshold_nats: float, outcomes: Sequence[Outcome]) -> Point:
    return Point(threshold_nats, step_share(outcomes), token_share(outcomes), accuracy_of(outcomes))


def accuracy_of(outcomes: Sequence[Outcome]) -> Estimate:
    """Share of right answers: Wilson's interval for one answer a question, else by drawing questions."""
    clusters: dict[str, list[float]] = {}
    for outcome in outcomes:
        clusters.setdefault(outcome.key.question, []).append(outcome.correct)
    if len(clusters) == len(outcomes):
        return wilson(sum(outcome.correct for outcome in outcomes), len(outcomes))
    return cluster_mean(list(clusters.values()))


def sweep_thresholds(glimpses: Sequence[tuple[float, int]], shares: Sequence[float] = SWEEP_SHARES) -> list[float]:
    """A grid of thresholds, falling, that should give the shares; fewer where entropies coincide."""
    return sorted({threshold_for(glimpses, share) for share in shares}, reverse=True)
