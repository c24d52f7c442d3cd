"""The schedule that paced runs replay: how long each step of a thought is, and which ones are for the large model.

Step lengths are those of a public R1 trace: median 32 tokens, mean 34, 39 % of 12 or fewer. 27 % of the steps are
pivots, drawn independently of each other and of the lengths, the first step never. The same thought length and seed
give the same schedule.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LARGE_SHARE = 0.27
LOW_NATS, HIGH_NATS = 0.05, 1.6
THRESHOLD_NATS = 0.9


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    tokens: int
    pivot: bool

    @property
    def entropy_nats(self) -> float:
        return HIGH_NATS if self.pivot else LOW_NATS


def schedule(thought_tokens: int, *, seed: int = 0) -> list[ScheduledStep]:
    """Steps of a thought of about `thought_tokens` (the last one is cut to fit)."""
    rng = random.Random(f"schedule/{thought_tokens}/{seed}")
    lengths = _lengths(thought_tokens, rng)
    pivots = _pivots(len(lengths), rng)
    return [ScheduledStep(tokens, pivot) for tokens, pivot in zip(lengths, pivots, strict=True)]


def _lengths(thought_tokens: int, rng: random.Random) -> list[int]:
    """Evenly spread quantiles of the distribution, shuffled: short thoughts keep its shape too."""
    count = max(1, round(thought_tokens / 34))
    lengths = [_quantile((place + 0.5) / count) for place in range(count)]
    rng.shuffle(lengths)
    excess = sum(lengths) - thought_tokens
    while excess > 0 and lengths:
        cut = min(excess, max(0, lengths[-1] - 3))
        lengths[-1] -= cut
        excess -= cut
        if excess > 0:
            excess -= lengths.pop()
    return lengths


def _quantile(share: float) -> int:
    """39 % evenly from 3 to 12 tokens, 11 % evenly up to 32, the rest beyond that with mean 58."""
    if share < 0.39:
        return 3 + int(share / 0.39 * 10)
    if share < 0.5:
        return 13 + int((share - 0.39) / 0.11 * 20)
    return 33 + int((share - 0.5) / 0.5 * 49)


def _pivots(count: int, rng: random.Random) -> list[bool]:
    wanted = round(LARGE_SHARE * count)
    chosen = set(rng.sample(range(1, count), min(wanted, count - 1))) if count > 1 else set()
    return [place in chosen for place in range(count)]
