"""Two normal distributions mixed, fitted to a sample by expectation and maximisation. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDS = 500
_SETTLED = 1e-9
_LEAST_SD_SHARE = 1e-3
"""Of the sample's own standard deviation: a component may not shrink onto a single value."""


@dataclass(frozen=True, slots=True)
class Normal:
    mean: float
    sd: float

    def log_density(self, value: float) -> float:
        return -0.5 * ((value - self.mean) / self.sd) ** 2 - math.log(self.sd) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True)
class TwoNormals:
    """`low_weight` is the share of the component with the lower mean."""

    low: Normal
    high: Normal
    low_weight: float

    def high_posterior(self, value: float) -> float:
        """The probability that a value is of the higher component; it never falls as the value rises from one mean to
        the other, and beyond either mean that mean's own component has it."""
        value = min(max(value, self.low.mean), self.high.mean)
        if self.low_weight in (0.0, 1.0):
            return 1.0 - self.low_weight
        odds = (
            math.log(1.0 - self.low_weight) + self.high.log_density(value)
            - math.log(self.low_weight) - self.low.log_density(value)
        )  # fmt: skip
        return 1.0 / (1.0 + math.exp(-odds)) if odds > -700.0 else 0.0


def fit_two_normals(values: Sequence[float]) -> TwoNormals:
    """The likeliest mixture, sought from the sample's quartiles. Raises ValueError under four different values."""
    if len(set(values)) < 4:
        raise ValueError("a mixture of two needs at least four different values")
    least_sd = _LEAST_SD_SHARE * statistics.pstdev(values)
    quartiles = statistics.quantiles(values, n=4)
    sd = max(least_sd, statistics.pstdev(values) / 2)
    mixture = TwoNormals(Normal(quartiles[0], sd), Normal(max(quartiles[2], quartiles[0] + sd), sd), 0.5)
    before = -math.inf
    for _ in range(_ROUNDS):
        shares, likelihood = _expect(mixture, values)
        if likelihood - before < _SETTLED * len(values):
            break
        before = likelihood
        mixture = _maximise(values, shares, least_sd)
    return (
        mixture
        if mixture.low.mean <= mixture.high.mean
        else TwoNormals(mixture.high, mixture.low, 1.0 - mixture.low_weight)
    )


def _expect(mixture: TwoNormals, values: Sequence[float]) -> tuple[list[float], float]:
    """The higher component's share in each value, and the log-likelihood of all."""
    shares, likelihood = [], 0.0
    for value in values:
        low = math.log(mixture.low_weight or 1e-300) + mixture.low.log_density(value)
        high = math.log(1.0 - mixture.low_weight or 1e-300) + mixture.high.log_density(value)
        top = max(low, high)
        total = top + math.log(math.exp(low - top) + math.exp(high - top))
        shares.append(math.exp(high - total))
        likelihood += total
    return shares, likelihood


def _maximise(values: Sequence[float], shares: Sequence[float], least_sd: float) -> TwoNormals:
    high_mass = math.fsum(shares)
    low = _weighted(values, [1.0 - share for share in shares], least_sd)
    return TwoNormals(low, _weighted(values, shares, least_sd), 1.0 - high_mass / len(values))


def _weighted(values: Sequence[float], weights: Sequence[float], least_sd: float) -> Normal:
    mass = math.fsum(weights) or 1e-300
    mean = math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / mass
    variance = math.fsum(weight * (value - mean) ** 2 for weight, value in zip(weights, values, strict=True)) / mass
    return Normal(mean, max(least_sd, math.sqrt(variance)))
