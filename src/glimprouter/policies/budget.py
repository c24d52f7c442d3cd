"""Budget: so many tokens or milliseconds of the large model per answer, spent where the signal says it pays."""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES, number
from glimprouter.errors import ConfigError
from glimprouter.flow.moves import Plan, Write, probe
from glimprouter.flow.prior import Prior
from glimprouter.flow.signals import Signal
from glimprouter.flow.trace import Step, Trace
from glimprouter.policies.standing import own_values, prior_of, standing

ASSUMED_STEPS, ASSUMED_TOKENS, ASSUMED_MS = 12.0, 32.0, 500.0
"""Of a thought and of a step by large, until the prior or the answer itself knows better."""

LEAST_LEFT = 0.25
"""A thought is never taken to be nearer its end than this share of its usual length, so that something is kept."""


@dataclass(frozen=True, slots=True)
class BudgetOptions:
    """What large may spend on an answer, and how much of that is set aside for writing the answer itself.

    Milliseconds count where `large_ms` is above 0, tokens elsewhere.
    """

    large_tokens: int = 256
    answer_tokens: int = 64
    large_ms: float = 0.0
    answer_ms: float = 0.0

    def __post_init__(self) -> None:
        number("large_tokens", self.large_tokens, 1, 10**7)
        number("answer_tokens", self.answer_tokens, 0, 10**7)
        number("large_ms", self.large_ms, 0.0, 1e9)
        number("answer_ms", self.answer_ms, 0.0, 1e9)
        for unit in ("ms",) if self.large_ms else ("tokens",):
            aside, total = getattr(self, f"answer_{unit}"), getattr(self, f"large_{unit}")
            if aside > total:
                raise ConfigError(
                    f"answer_{unit} is {aside:g}, more than large_{unit}, {total:g}; accepted: a part of it",
                    field=f"answer_{unit}",
                )


@dataclass(frozen=True, slots=True)
class Budget:
    """Large where the step ranks among as many of those expected yet as what is left can pay for.

    What is left is spread over the steps expected, so it shrinks by shares and never runs dry; spending ahead of the
    plan by more than a quarter of it waits. The answer's part is set aside first: large can always write it. A step
    may run longer than its like, so a thought may pass its budget by the rest of one step.
    """

    options: BudgetOptions
    threshold: float
    signal: Signal

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        prior = prior_of(trace, self.threshold)
        glimpse = yield from probe("small", self.signal.tokens)
        price, total = self._price(trace, prior), self._total
        spent = sum(self._cost(step) for step in trace.steps if step.author == "large")
        usual, done = prior.mean_steps or ASSUMED_STEPS, len(trace.steps)
        ahead = usual * LEAST_LEFT
        if spent + price > total * (done + 1 + ahead) / (max(usual, done + 1) + ahead):
            return Write("small")
        affordable = (total - spent) / price / max(usual - done, ahead)
        in_loop = bool(trace.steps) and trace.steps[-1].loop_cycle_steps > 0
        stands = standing(self.signal.measure(glimpse), prior, own_values(trace, self.signal))
        return Write("large" if in_loop or stands > 1.0 - affordable else "small")

    @property
    def _total(self) -> float:
        """For the thought: tokens, or milliseconds where those were given."""
        options = self.options
        return (
            options.large_ms - options.answer_ms if options.large_ms else options.large_tokens - options.answer_tokens
        )

    def _cost(self, step: Step) -> float:
        return step.wall_ms if self.options.large_ms else step.tokens

    def _price(self, trace: Trace, prior: Prior) -> float:
        """What a step by large costs: the mean of this answer's, the prior's counting as one of them."""
        learnt = (prior.mean_large_ms or ASSUMED_MS) if self.options.large_ms else prior.mean_large_tokens
        own = [self._cost(step) for step in trace.steps if step.author == "large"]
        return max(1.0, ((learnt or ASSUMED_TOKENS) + sum(own)) / (1 + len(own)))

    def describe(self) -> str:
        unit = f"{self.options.large_ms:g} ms" if self.options.large_ms else f"{self.options.large_tokens} tokens"
        return f"budget({unit}, {self.signal.name})"
