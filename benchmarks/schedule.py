"""The published schedule of a thought: how long its steps are, and which of them are uncertain.

Step lengths are shaped like those of a public R1 trace: median 32 tokens, mean 34, 39 % of 12 or fewer. They come from
a mixture of three parts, drawn in strata, so that short thoughts have the same shape as long ones:

    39 % of steps   4 to 12 tokens, all equally likely (a splitter merges shorter ones)
    10 % of steps   13 to 31 tokens, all equally likely
    51 % of steps   32 tokens and an exponential tail of mean 24.8 on top, at most 256

27 % of the steps are pivots: uncertain, and so for the large model. Which ones is drawn independently of their place
and length: of all schedules with as many pivots few have more hand-overs. Real thoughts are uncertain in clusters,
which is easier. The first step is never one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.config import PUBLISHED_THRESHOLD_NATS
from glimprouter.engines.scripted import Line

LARGE_SHARE = 0.27
THRESHOLD_NATS = PUBLISHED_THRESHOLD_NATS
SHORT_SHARE, MIDDLE_SHARE = 0.39, 0.1
MEAN_STEP_TOKENS = 34.0
TAIL_TOKENS = 24.8
LONGEST_TOKENS = 256

CERTAIN_NATS = (0.02, THRESHOLD_NATS - 0.2)
UNCERTAIN_NATS = (THRESHOLD_NATS + 0.2, 2.0)

STEP_END = ".\n\n"


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """`tokens` counts all tokens of the step, its end included; `entropy_nats` is that of the first."""

    tokens: int
    entropy_nats: float

    @property
    def pivot(self) -> bool:
        """Whether it is for the large model."""
        return self.entropy_nats > THRESHOLD_NATS


def schedule(thought_tokens: int, *, seed: int = 0) -> list[ScheduledStep]:
    """The steps of a thought of exactly so many tokens (at least 34), its closing tag apart; one for each seed."""
    draw = random.Random(f"schedule/{thought_tokens}/{seed}")
    count = max(1, round(thought_tokens / MEAN_STEP_TOKENS))
    lengths = [step_tokens((place + draw.random()) / count) for place in range(count)]
    draw.shuffle(lengths)
    _fit(lengths, thought_tokens)
    pivots = set(draw.sample(range(1, count), min(round(LARGE_SHARE * count), count - 1)))
    bounds = [UNCERTAIN_NATS if place in pivots else CERTAIN_NATS for place in range(count)]
    return [
        ScheduledStep(tokens, round(draw.uniform(low, high), 3))
        for tokens, (low, high) in zip(lengths, bounds, strict=True)
    ]


def lines_of(steps: Sequence[ScheduledStep]) -> list[Line]:
    """The thought for a scripted engine, whose vocabulary makes one token of each word and one of the step's end."""
    lines, place = [], 0
    for step in steps:
        words = "".join(f" w{place + offset:05}" for offset in range(step.tokens - 1))
        lines.append(Line(words + STEP_END, step.entropy_nats))
        place += step.tokens
    return lines


def step_tokens(quantile: float) -> int:
    """The length under which that share of all steps stays."""
    if quantile < SHORT_SHARE:
        return 4 + int(9 * quantile / SHORT_SHARE)
    if quantile < SHORT_SHARE + MIDDLE_SHARE:
        return 13 + int(19 * (quantile - SHORT_SHARE) / MIDDLE_SHARE)
    rest = (1 - quantile) / (1 - SHORT_SHARE - MIDDLE_SHARE)
    return min(LONGEST_TOKENS, 32 + int(-TAIL_TOKENS * math.log(max(rest, 1e-9))))


def _fit(lengths: list[int], thought_tokens: int) -> None:
    """Spread what is missing or too much over the long steps, a token at a time; the shape stays as it is."""
    by_length = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    longest = by_length[: max(1, len(by_length) // 3)]
    missing = thought_tokens - sum(lengths)
    for turn in range(abs(missing)):
        lengths[longest[turn % len(longest)]] += 1 if missing > 0 else -1
