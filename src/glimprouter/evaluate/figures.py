"""The figures of a run, with intervals: all over the same questions and resamples, so that they compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glimprouter.evaluate.columns import Column
from glimprouter.evaluate.folder import Plan
from glimprouter.evaluate.matching import SHARE, Matched, Mixture, mixture_for
from glimprouter.evaluate.methods import RANDOM_HIGH
from glimprouter.evaluate.prices import Prices, money_per_question
from glimprouter.stats import (
    UNKNOWN,
    Bootstrap,
    Estimate,
    Statistic,
    area_under,
    median_at,
    ratio_of_sums,
    sign_flip_p,
    wilson,
)

MIXED = "random"
"""Name of the mixture that stands for Random at glimpse's share."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one method minus another's on the same questions; `p` by the paired permutation test."""

    estimate: Estimate
    p: float


NO_DIFFERENCE = Difference(UNKNOWN, math.nan)


@dataclass(frozen=True, slots=True)
class Cost:
    """Per answer. Tokens read are those that no cache held, written ones include those thrown away."""

    small_read: float
    small_written: float
    large_read: float
    large_written: float
    money: Estimate | None


class Figures:
    """Statistics of columns. Random's runs, with their two ends, are what other methods are matched with."""

    def __init__(self, columns: Mapping[str, Column], plan: Plan, samples: int) -> None:
        self.columns = dict(columns)
        self._samples = samples
        self._all = range(len(next(iter(columns.values())).values["answers"]))
        self._bootstrap = Bootstrap(len(self._all))
        self._policies = {method.name: method.routing for method in plan.methods}
        self.random_runs = self._random_runs()
        self.mixture: Mixture | None = None
        if "glimpse" in columns and any(self._is_random(name) for name in columns):
            self.mixture = self._mixture("glimpse", SHARE)
        if self.mixture is not None:
            after = RANDOM_HIGH if RANDOM_HIGH in columns else "glimpse"
            self.columns = _inserted_after(self.columns, after, self.mixture.column(self._all))

    def has(self, *methods: str) -> bool:
        return all(method in self.columns for method in methods)

    def accuracy(self, method: str) -> Estimate:
        column = self.columns[method]
        if self._samples == 1 and method != MIXED:
            return wilson(sum(column.values["correct"]), len(self._all))
        return self._bootstrap.estimate(self._accuracy_statistic(method))

    def difference(self, first: str, second: str) -> Difference:
        """Of accuracies. Unknown where one of the methods was not run."""
        if not self.has(first, second):
            return NO_DIFFERENCE
        a, b = self._accuracy_statistic(first), self._accuracy_statistic(second)
        estimate = self._bootstrap.estimate(lambda places: a(places) - b(places))
        right, other = (self.columns[name].values["correct"] for name in (first, second))
        return Difference(estimate, sign_flip_p([x - y for x, y in zip(right, other, strict=True)]))

    def minus_random(self, method: str, matched: Matched) -> Estimate:
        """Accuracy over that of Random with the same figure; unknown where Random's runs do not enclose it."""
        if method == MIXED or self._is_random(method) or not self.is_routed(method):
            return UNKNOWN
        mixture = self._mixture(method, matched)
        if mixture is None:
            return UNKNOWN
        own = self.columns[method].accuracy
        return self._bootstrap.estimate(lambda places: own(places) - mixture.accuracy(places))

    def share(self, method: str, of: str) -> float:
        return self.columns[method].large_share(of)(self._all)

    def mean(self, method: str, field: str) -> float:
        return self.columns[method].mean(field)(self._all)

    def median_wall_ms(self, method: str) -> Estimate:
        return self._bootstrap.estimate(median_at(self.columns[method].per_question("wall_ms")))

    def mean_wall_ms(self, method: str) -> Estimate:
        return self._bootstrap.estimate(self.columns[method].mean("wall_ms"))

    def wall_ratio(self, method: str) -> Estimate:
        """Median over questions of the wall time over that of `large`."""
        if not self.has("large"):
            return UNKNOWN
        own, large = (self.columns[name].per_question("wall_ms") for name in (method, "large"))
        return self._bootstrap.estimate(median_at([a / b for a, b in zip(own, large, strict=True)]))

    def cost(self, method: str, prices: Prices) -> Cost:
        column = self.columns[method]
        money = ratio_of_sums(money_per_question(column, prices), column.values["answers"]) if prices else None
        return Cost(
            small_read=self.mean(method, "small_read"),
            small_written=self.mean(method, "small_written"),
            large_read=self.mean(method, "large_read"),
            large_written=self.mean(method, "large_written"),
            money=self._bootstrap.estimate(money) if money else None,
        )

    def gap_recovered(self) -> Estimate:
        """(glimpse - share0) / (large - share0); undefined where large is not ahead of small thinking at all."""
        if not self.has("glimpse", "large", "share0"):
            return UNKNOWN
        glimpse, large, zero = (self.columns[name].accuracy for name in ("glimpse", "large", "share0"))

        def recovered(places: Sequence[int]) -> float:
            floor = zero(places)
            gap = large(places) - floor
            return (glimpse(places) - floor) / gap if gap > 0.0 else math.nan

        return self._bootstrap.estimate(recovered)

    def area_above_random(self) -> Estimate:
        """Area between glimpse's curve of accuracy over large share of tokens and Random's, both between the two ends:
        how much better at all shares together. Needs a sweep and a grid of Random."""
        routed = [name for name, routing in self._policies.items() if routing.policy == "glimpse" and self.has(name)]
        random = [column for column in self.random_runs if self._is_random(column.method)]
        if not routed or not random or not self.has("share0", "large"):
            return UNKNOWN
        ends = [self.columns["share0"], self.columns["large"]]
        ours, theirs = self._curve([*ends, *map(self.columns.__getitem__, routed)]), self._curve([*ends, *random])
        return self._bootstrap.estimate(lambda places: ours(places) - theirs(places))

    def is_routed(self, method: str) -> bool:
        """Whether both models may write the thought, so that there is a share to be matched."""
        return 0.0 < self.share(method, "tokens") < 1.0

    def match_note(self) -> str | None:
        """How Random came to glimpse's share, or that it did not."""
        if "glimpse" not in self.columns or not any(map(self._is_random, self.columns)):
            return None
        reached = self.share("glimpse", "tokens")
        if self.mixture is None:
            shares = ", ".join(f"{SHARE.of(run, self._all):.1%}" for run in self.random_runs)
            return (
                f"Random is NOT at glimpse's share of thought tokens, {reached:.1%}: its runs gave {shares} to the "
                "large model; give a nearer --random-p"
            )
        weight = self.mixture.weight(self._all)
        low, high = self.mixture.low, self.mixture.high
        return (
            f"random is mixed {1 - weight:.0%} to {weight:.0%} from {low.method} and {high.method} to glimpse's share: "
            f"they gave {SHARE.of(low, self._all):.1%} and {SHARE.of(high, self._all):.1%} of thought tokens to the "
            f"large model, glimpse {reached:.1%}"
        )

    def _accuracy_statistic(self, method: str) -> Statistic:
        if method == MIXED and self.mixture is not None:
            return self.mixture.accuracy
        return self.columns[method].accuracy

    def _mixture(self, method: str, matched: Matched) -> Mixture | None:
        return mixture_for(self.columns[method], self.random_runs, matched)

    def _is_random(self, name: str) -> bool:
        return name in self._policies and self._policies[name].policy == "random"

    def _random_runs(self) -> list[Column]:
        """By rising probability; small thinking alone and large alone are its ends."""
        random = {name: self._policies[name].random_p for name in self.columns if self._is_random(name)}
        ends = {"share0": -1.0, "large": 2.0}
        order = random | {name: place for name, place in ends.items() if self.has(name)}
        return [self.columns[name] for name in sorted(order, key=order.__getitem__)]

    @staticmethod
    def _curve(columns: Sequence[Column]) -> Statistic:
        shares, accuracies = [one.large_share("tokens") for one in columns], [one.accuracy for one in columns]

        def area(places: Sequence[int]) -> float:
            points = [(x(places), y(places)) for x, y in zip(shares, accuracies, strict=True)]
            return area_under(points)

        return area


def accuracy_by_family(
    families: Sequence[str], columns: Mapping[str, Column], samples: int
) -> dict[str, dict[str, Estimate]]:
    """Per family, the accuracy of each method that was run; by drawing questions where they have several samples."""
    table: dict[str, dict[str, Estimate]] = {}
    for family in dict.fromkeys(families):
        places = [place for place, name in enumerate(families) if name == family]
        bootstrap = Bootstrap(len(places))
        table[family] = {}
        for name, column in columns.items():
            correct = [column.values["correct"][place] for place in places]
            if samples == 1:
                table[family][name] = wilson(sum(correct), len(places))
            else:
                rates = ratio_of_sums(correct, [float(samples)] * len(correct))
                table[family][name] = bootstrap.estimate(rates)
    return table


def _inserted_after(columns: dict[str, Column], place: str, column: Column) -> dict[str, Column]:
    order: dict[str, Column] = {}
    for name, known in columns.items():
        order[name] = known
        if name == place:
            order[column.method] = column
    return order
