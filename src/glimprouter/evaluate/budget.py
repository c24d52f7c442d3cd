"""Budgets: a run that would take too long or cost too much stops between two answers, and can go on later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.errors import ConfigError, GlimprouterError
from glimprouter.evaluate.records import Outcome


class BudgetSpent(GlimprouterError):
    """A run stopped because its budget was used up; everything answered is kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one start of a run. `large_tokens` counts what the large model drew, thrown away or not; None: no bound."""

    minutes: float | None = None
    large_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-minutes", self.minutes), ("max-large-tokens", self.large_tokens)):
            if value is not None and not value > 0:
                raise ConfigError(f"--{name} is {value:g}; accepted: above 0", field=name.replace("-", "_"))


class Spending:
    """What a run has used of its budget. Answers under way are finished, so it may be overdrawn by those."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._begun_s = clock()
        self._large_tokens = 0

    def count(self, outcome: Outcome) -> None:
        self._large_tokens += outcome.large.new_tokens + outcome.large.discarded_tokens

    def check(self) -> None:
        """Raises BudgetSpent where no further answer may begin."""
        minutes, tokens = (self._clock() - self._begun_s) / 60, self._large_tokens
        if self._budget.minutes is not None and minutes >= self._budget.minutes:
            raise BudgetSpent(f"--max-minutes {self._budget.minutes:g} are over")
        if self._budget.large_tokens is not None and tokens >= self._budget.large_tokens:
            raise BudgetSpent(f"--max-large-tokens {self._budget.large_tokens} are used up: {tokens} drawn")
