"""What each method did, question by question: the numbers that every figure of a report is a sum or median of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimprouter.evaluate.records import CUT_THOUGHTS, Key, Outcome
from glimprouter.flow.trace import ModelUsage
from glimprouter.stats import Statistic, ratio_of_sums

FIELDS: dict[str, Callable[[Outcome], float]] = {
    "answers": lambda _: 1.0,
    "correct": lambda one: one.correct,
    "cut": lambda one: one.cut is not None,
    "tokens": lambda one: one.tokens,
    "large_tokens": lambda one: one.large_tokens,
    "steps": lambda one: one.steps,
    "large_steps": lambda one: one.large_steps,
    "handovers": lambda one: one.handovers,
    "discarded_tokens": lambda one: one.discarded_tokens,
    "wall_ms": lambda one: one.wall_ms,
    "cpu_ms": lambda one: math.nan if one.cpu_ms is None else one.cpu_ms,
    "small_read": lambda one: _read(one.small),
    "small_cached": lambda one: one.small.cached_tokens,
    "small_written": lambda one: _written(one.small),
    "large_read": lambda one: _read(one.large),
    "large_cached": lambda one: one.large.cached_tokens,
    "large_written": lambda one: _written(one.large),
}
"""Of each, a column holds the sum over the samples of each question. Tokens read are those that no cache held; tokens
written include those thrown away."""


def _read(usage: ModelUsage) -> int:
    return usage.prompt_tokens - usage.cached_tokens + usage.warm_tokens


def _written(usage: ModelUsage) -> int:
    return usage.new_tokens + usage.discarded_tokens


@dataclass(frozen=True, slots=True)
class Column:
    """One method over the same questions, in the same order, as every other column of a report."""

    method: str
    values: dict[str, list[float]]
    cut: dict[str, int]
    unanswered: int

    @property
    def accuracy(self) -> Statistic:
        return self.mean("correct")

    def mean(self, field: str) -> Statistic:
        """Per answer."""
        return ratio_of_sums(self.values[field], self.values["answers"])

    def large_share(self, of: str) -> Statistic:
        """`of` is tokens or steps; pooled over answers."""
        return ratio_of_sums(self.values[f"large_{of}"], self.values[of])

    def per_question(self, field: str) -> list[float]:
        """Means over the samples of each question."""
        return [value / answers for value, answers in zip(self.values[field], self.values["answers"], strict=True)]


def column_of(method: str, questions: Sequence[Sequence[Outcome]]) -> Column:
    """A method's answers, grouped by question."""
    outcomes = [outcome for question in questions for outcome in question]
    return Column(
        method,
        {field: [math.fsum(map(value, question)) for question in questions] for field, value in FIELDS.items()},
        {end: sum(outcome.cut == end for outcome in outcomes) for end in CUT_THOUGHTS},
        sum(not outcome.answered for outcome in outcomes),
    )


def complete_questions(
    outcomes: dict[Key, Outcome], questions: Sequence[str], methods: Sequence[str], samples: int
) -> list[str]:
    """Questions that every method has answered as often as planned: only those can be compared."""
    return [
        question
        for question in questions
        if all(Key(question, method, sample) in outcomes for method in methods for sample in range(samples))
    ]


def columns_of(
    outcomes: dict[Key, Outcome], questions: Sequence[str], methods: Sequence[str], samples: int
) -> dict[str, Column]:
    """A column for each method, over questions that all have answered."""
    return {
        method: column_of(
            method,
            [[outcomes[Key(question, method, sample)] for sample in range(samples)] for question in questions],
        )
        for method in methods
    }
