"""What each method did, question by question: the numbers that every figure of a report is a sum or median of.

Random's column is a mixture of two runs, below and above glimpse's share of thought tokens. With weight w on the upper
one, w is chosen so that the pooled large share of tokens is exactly glimpse's:

    ((1 - w) L_low + w L_high) / ((1 - w) T_low + w T_high) = L_glimpse / T_glimpse

(L: tokens by the large model, T: all thought tokens, summed over the questions). It stands for a Random that flips a
coin before each question; nothing is assumed about what happens between the two probabilities. In a bootstrap w is
chosen anew for each resample, so that intervals carry the uncertainty of the match.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.evaluate.records import CUT_THOUGHTS, Key, Outcome
from glimprouter.stats import Statistic, ratio_of_sums

FIELDS = (
    "answers", "correct", "tokens", "large_tokens", "steps", "large_steps", "handovers", "discarded_tokens", "wall_ms",
    "cpu_ms",
)  # fmt: skip
"""Of each, a column holds the sum over the samples of each question."""


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
        {field: [sum(_value(outcome, field) for outcome in question) for question in questions] for field in FIELDS},
        {end: sum(outcome.cut == end for outcome in outcomes) for end in CUT_THOUGHTS},
        sum(not outcome.answered for outcome in outcomes),
    )


def _value(outcome: Outcome, field: str) -> float:
    if field == "answers":
        return 1.0
    value: float | None = getattr(outcome, field)
    return math.nan if value is None else value


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


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two Random runs, weighted to the large token share of `target`."""

    low: Column
    high: Column
    target: Column

    def raw_weight(self, places: Sequence[int]) -> float:
        """Of the upper run; outside 0 to 1 where the two runs do not enclose the target's share."""
        low_large, low_all = self._tokens(self.low, places)
        high_large, high_all = self._tokens(self.high, places)
        large, total = self._tokens(self.target, places)
        share = large / total if total else 0.0
        slope = (high_large - low_large) - share * (high_all - low_all)
        return (share * low_all - low_large) / slope if slope else 0.0

    def weight(self, places: Sequence[int]) -> float:
        return min(1.0, max(0.0, self.raw_weight(places)))

    def accuracy(self, places: Sequence[int]) -> float:
        weight = self.weight(places)
        return (1.0 - weight) * self.low.accuracy(places) + weight * self.high.accuracy(places)

    def column(self, places: Sequence[int]) -> Column:
        """The mixture question by question, at the weight that `places` give."""
        weight = self.weight(places)
        values = {
            field: [
                (1.0 - weight) * low + weight * high
                for low, high in zip(self.low.values[field], self.high.values[field], strict=True)
            ]
            for field in FIELDS
        }
        return Column("random", values, {}, round((1 - weight) * self.low.unanswered + weight * self.high.unanswered))

    @staticmethod
    def _tokens(column: Column, places: Sequence[int]) -> tuple[float, float]:
        large, total = column.values["large_tokens"], column.values["tokens"]
        return sum(map(large.__getitem__, places)), sum(map(total.__getitem__, places))
