"""A draft as a policy sees it: a step written on trial, and what its own model thought of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from glimprouter.config import Side
from glimprouter.flow.engine import Token
from glimprouter.flow.glimpse import LARGEST_VOCABULARY, entropy_of
from glimprouter.flow.trace import StepEnd


@dataclass(frozen=True, slots=True)
class Drafted:
    """A step on trial; `number` counts the drafts of one step from 0.

    `mean_entropy_nats` is H_step, the mean of its tokens' entropies by the published estimator; `perplexity` is
    exp(mean negative log-likelihood), of the raw distribution. Both None where its model gave no log-probabilities.
    """

    number: int
    author: Side
    text: str
    end: StepEnd
    mean_entropy_nats: float | None = None
    perplexity: float | None = None


def mean_entropy_nats(tokens: Sequence[Token]) -> float | None:
    """Mean entropy of the tokens that came with a distribution."""
    entropies = [
        entropy_of(list(top.values()), LARGEST_VOCABULARY).entropy_nats
        for token in tokens
        if len(top := dict(token.top)) > 1
    ]
    return fmean(entropies) if entropies else None


def perplexity(tokens: Sequence[Token]) -> float | None:
    """exp(mean negative log-likelihood) over the tokens whose probability is known."""
    logprobs = [token.logprob for token in tokens if token.logprob is not None and token.logprob > -math.inf]
    return math.exp(-fmean(logprobs)) if logprobs else None
