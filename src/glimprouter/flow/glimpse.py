"""The glimpse: what the first token of a step tells, before anybody has written the step.

Entropy is of the raw distribution at temperature 1, in nats. Servers show the k most likely tokens only, so three
numbers are given: the published estimator (the k seen, renormalised; decisions use it, so that thresholds compare),
and a lower and an upper bound of the whole distribution's entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.errors import EngineProtocolError
from glimprouter.flow.engine import Token

LARGEST_VOCABULARY = 2**18
"""Taken where an engine does not tell how large its own is: it only widens the upper bound."""

ROUNDING_NATS = 0.1
"""A log-probability no further above zero is one that an engine rounded, in eight or sixteen bits."""


@dataclass(frozen=True, slots=True)
class Entropy:
    """Entropies in nats; `covered` is the probability mass of the tokens seen."""

    entropy_nats: float
    low_nats: float
    high_nats: float
    covered: float


@dataclass(frozen=True, slots=True)
class Glimpse:
    """The distribution of a step's first visible token as the small model saw it, and the token it drew.

    `next_nats` are the entropies of the tokens after it, where a probe looked further.
    """

    entropy_nats: float
    low_nats: float
    high_nats: float
    covered: float
    token_id: int
    token_text: str
    top: tuple[tuple[int, float], ...]
    next_nats: tuple[float, ...] = ()


def glimpse_of(token: Token, vocabulary_size: int) -> Glimpse:
    """The glimpse a drawn token gives. Raises EngineProtocolError where it came without log-probabilities.

    `vocabulary_size` 0: unknown. An id given twice (some engines append the drawn token to the best k) counts once.
    What cannot occur is dropped from `top`: minus infinity has no place in JSON.
    """
    top = dict(token.top)  # some engines' are read only now
    if len(top) == 1:
        raise EngineProtocolError(
            "the engine returned a single log-probability for a step's first token, so its entropy is unknown; "
            "start it with at least 20 top log-probabilities allowed"
        )
    entropy = entropy_of(list(top.values()), vocabulary_size or LARGEST_VOCABULARY)
    possible = tuple(item for item in top.items() if item[1] > -math.inf)
    return Glimpse(
        entropy.entropy_nats, entropy.low_nats, entropy.high_nats, entropy.covered, token.id, token.text, possible
    )


def entropy_of(logprobs: Sequence[float], vocabulary_size: int) -> Entropy:
    """Entropy of a distribution of which the most likely `len(logprobs)` of `vocabulary_size` outcomes are known.

    Every unseen outcome is at most as likely as the least likely seen one. With mass r unseen, the tail adds least
    when that mass sits on as few outcomes as this allows, and most when it is spread evenly over all of them.
    Raises EngineProtocolError for values that are no log-probabilities, and where none has any mass.
    """
    if not all(value <= ROUNDING_NATS for value in logprobs):
        raise EngineProtocolError(f"the engine returned what are no log-probabilities: {list(logprobs)[:5]}")
    seen = [math.exp(value) for value in logprobs if value > -math.inf]
    covered = math.fsum(seen)
    if not covered:
        raise EngineProtocolError(
            "the engine returned no usable log-probabilities for a step's first token, so its entropy is unknown; "
            "start it with at least 20 top log-probabilities allowed"
        )
    if covered > 1.0:
        # Servers round: what exceeds one is noise, not mass.
        seen = [p / covered for p in seen]
        covered = 1.0
    raw = -math.fsum(p * math.log(p) for p in seen if p > 0.0)
    published = max(0.0, raw / covered + math.log(covered))
    low_tail, high_tail = _tail_bounds(1.0 - covered, min(seen), vocabulary_size - len(logprobs))
    return Entropy(published, max(0.0, raw + low_tail), max(0.0, raw + high_tail), covered)


def _tail_bounds(mass: float, ceiling: float, outcomes: int) -> tuple[float, float]:
    """Least and most that `mass`, spread over `outcomes` of at most `ceiling` each, adds to the entropy (nats)."""
    if mass <= 0.0 or outcomes <= 0:
        return 0.0, 0.0
    high = mass * math.log(outcomes / mass)
    if ceiling <= 0.0:
        return 0.0, high
    whole = min(float(outcomes), mass // ceiling)
    rest = max(0.0, mass - whole * ceiling)
    low = -whole * ceiling * math.log(ceiling) - (rest * math.log(rest) if rest > 0.0 else 0.0)
    return min(low, high), high
