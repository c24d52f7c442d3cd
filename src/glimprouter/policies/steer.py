"""STEER (arXiv 2511.06190): the small model's confidence before a step says who writes it.

Confidence is the probability of its likeliest first token. Over many steps it is a mixture of two normal distributions,
fitted beforehand to the small model's own confidences (`mixtures.fit_two_normals`); the small model writes where a
confidence belongs to the higher one with probability `least`. Difference: the published confidence is drawn from the
logits that precede a step; we take that of the step's first visible token, which is what a glimpse sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.trace import Trace
from glimprouter.mixtures import Normal, TwoNormals
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class Steer:
    """`low_*` and `high_*` are means and standard deviations of the two components, `low_weight` the lower's share."""

    low_mean: Annotated[float, Within(0, 1)]
    low_sd: Annotated[float, Within(1e-9, 1)]
    high_mean: Annotated[float, Within(0, 1)]
    high_sd: Annotated[float, Within(1e-9, 1)]
    low_weight: Annotated[float, Within(0, 1)] = 0.5
    least: Annotated[float, Within(0, 1)] = 0.5

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        glimpse = yield from probe("small")
        mixture = TwoNormals(Normal(self.low_mean, self.low_sd), Normal(self.high_mean, self.high_sd), self.low_weight)
        return Write("small" if mixture.high_posterior(confidence(glimpse)) >= self.least else "large")

    def describe(self) -> str:
        return described("steer", self)


def confidence(glimpse: Glimpse) -> float:
    """Probability of the likeliest first token; 1 where the model ended instead."""
    return min(1.0, math.exp(max((logprob for _, logprob in glimpse.top), default=0.0)))
