"""From answers to figures with intervals. Knows no engine and prints nothing; every figure can be had from a folder.

Accuracies have Wilson's interval where each question was answered once, else one by drawing questions. Differences are
paired: both methods on the same questions, drawn together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from glimprouter.config import PUBLISHED_THRESHOLD_NATS
from glimprouter.errors import ConfigError
from glimprouter.evaluate.columns import Column, Mixture, columns_of, complete_questions
from glimprouter.evaluate.folder import Card, Plan, RunFolder
from glimprouter.evaluate.methods import RANDOM_HIGH, RANDOM_LOW
from glimprouter.evaluate.records import Key, Outcome
from glimprouter.stats import UNKNOWN, Bootstrap, Estimate, Statistic, median_at, wilson

COME_NEAR = 0.02
"""Two points of accuracy: what a sweep calls within reach of the large model."""

PAIRS = (
    ("glimpse", "random"),
    ("glimpse", "share0"),
    ("large", "share0"),
    ("glimpse", "large"),
)
UNCALIBRATED = (
    f"glimpse's threshold is the published {PUBLISHED_THRESHOLD_NATS} nats, which does not travel between pairs: find "
    "this pair's with --calibrate, and give it with --threshold"
)
NOTE = (
    "Models of a few megabytes show the mechanism on problems with known answers. Figures for real reasoning models "
    "are to be measured on them."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A method. Times are per question, in ms; `wall_ratio` is the median over questions of its wall time over that of
    `large`; hand-overs and discarded tokens are means per answer; `cut` counts thoughts by what ended them."""

    method: str
    routing: str
    threshold_nats: float | None
    answers: int
    accuracy: Estimate
    minus_large: Estimate
    large_token_share: float
    large_step_share: float
    median_wall_ms: float
    mean_wall_ms: float
    wall_ratio: Estimate
    mean_cpu_ms: float
    handovers: float
    discarded_tokens: float
    cut: dict[str, int]
    unanswered: int


@dataclass(frozen=True, slots=True)
class Report:
    """`questions` of the `planned` ones were answered by all methods; only they count. `families` maps a family to the
    accuracy of each method. `closing` is the last line: plain numbers, NaN for what was not run."""

    questions: int
    planned: int
    samples: int
    rows: list[Row]
    families: dict[str, dict[str, Estimate]]
    differences: dict[str, Estimate]
    gap_recovered: Estimate
    near_large: str | None
    closing: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def row(self, method: str) -> Row | None:
        return next((row for row in self.rows if row.method == method), None)


def report_of(folder: RunFolder) -> Report:
    """The report of a folder, finished or not. Raises ConfigError where no question is done."""
    card, plan = folder.card(), folder.plan()
    return make_report(card, plan, {outcome.key: outcome for outcome in folder.outcomes()})


def make_report(card: Card, plan: Plan, outcomes: dict[Key, Outcome]) -> Report:
    samples = card.settings.samples
    methods = [method.name for method in plan.methods]
    complete = complete_questions(outcomes, plan.questions, methods, samples)
    if not complete:
        raise ConfigError("no question has been answered by all methods yet; go on with the run first", field="out")
    columns = columns_of(outcomes, complete, methods, samples)
    figures = _Figures(columns, len(complete), samples)
    rows = [figures.row(column, plan) for column in figures.columns.values()]
    differences = {f"{a} - {b}": figures.difference(a, b) for a, b in PAIRS if figures.has(a, b)}
    gap = figures.gap_recovered()
    families = [outcomes[Key(question, methods[0], 0)].family for question in complete]
    return Report(
        questions=len(complete),
        planned=len(plan.questions),
        samples=samples,
        rows=rows,
        families=_families(families, columns, samples),
        differences=differences,
        gap_recovered=gap,
        near_large=_near_large(rows) if card.settings.mode == "sweep" else None,
        closing=_closing({row.method: row for row in rows}, differences, gap),
        notes=[
            *plan.notes,
            *figures.notes(),
            *([UNCALIBRATED] if card.settings.threshold_source == "published" else []),
            *_unfinished(len(complete), len(plan.questions)),
            NOTE,
        ],
    )


class _Figures:
    """Statistics over one set of questions and one set of resamples."""

    def __init__(self, columns: dict[str, Column], questions: int, samples: int) -> None:
        self.columns = dict(columns)
        self._samples = samples
        self._all = range(questions)
        self._bootstrap = Bootstrap(questions)
        self._mixture: Mixture | None = None
        if {RANDOM_LOW, RANDOM_HIGH, "glimpse"} <= columns.keys():
            self._mixture = Mixture(columns[RANDOM_LOW], columns[RANDOM_HIGH], columns["glimpse"])
            self.columns = _inserted_after(self.columns, RANDOM_HIGH, self._mixture.column(self._all))

    def has(self, *methods: str) -> bool:
        return all(method in self.columns for method in methods)

    def row(self, column: Column, plan: Plan) -> Row:
        routing = next((method.routing for method in plan.methods if method.name == column.method), None)
        walls = column.per_question("wall_ms")
        return Row(
            method=column.method,
            routing=_describe(column.method, plan),
            threshold_nats=routing.threshold if routing else None,
            answers=round(sum(column.values["answers"])),
            accuracy=self._accuracy(column),
            minus_large=self.difference(column.method, "large") if self.has("large") else UNKNOWN,
            large_token_share=column.large_share("tokens")(self._all),
            large_step_share=column.large_share("steps")(self._all),
            median_wall_ms=statistics.median(walls),
            mean_wall_ms=statistics.fmean(walls),
            wall_ratio=self._wall_ratio(column),
            mean_cpu_ms=column.mean("cpu_ms")(self._all),
            handovers=column.mean("handovers")(self._all),
            discarded_tokens=column.mean("discarded_tokens")(self._all),
            cut=column.cut,
            unanswered=column.unanswered,
        )

    def difference(self, first: str, second: str) -> Estimate:
        """Accuracy of the first method minus that of the second, on the same questions."""
        a, b = self._accuracy_statistic(first), self._accuracy_statistic(second)
        return self._bootstrap.estimate(lambda places: a(places) - b(places))

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

    def notes(self) -> list[str]:
        if self._mixture is None:
            return []
        weight = self._mixture.raw_weight(self._all)
        low, high = (column.large_share("tokens")(self._all) for column in (self._mixture.low, self._mixture.high))
        reached = self.columns["glimpse"].large_share("tokens")(self._all)
        runs = f"its two runs gave {low:.1%} and {high:.1%} of thought tokens to the large model, glimpse {reached:.1%}"
        if 0.0 <= weight <= 1.0:
            return [f"random is mixed {1 - weight:.0%} to {weight:.0%} to glimpse's share: {runs}"]
        return [f"random is NOT at glimpse's share: {runs}; give a nearer --random-p"]

    def _accuracy_statistic(self, method: str) -> Statistic:
        if method == "random" and self._mixture is not None:
            return self._mixture.accuracy
        return self.columns[method].accuracy

    def _accuracy(self, column: Column) -> Estimate:
        if self._samples == 1 and column.method != "random":
            return wilson(sum(column.values["correct"]), len(self._all))
        return self._bootstrap.estimate(self._accuracy_statistic(column.method))

    def _wall_ratio(self, column: Column) -> Estimate:
        if not self.has("large"):
            return UNKNOWN
        own, large = column.per_question("wall_ms"), self.columns["large"].per_question("wall_ms")
        return self._bootstrap.estimate(median_at([a / b for a, b in zip(own, large, strict=True)]))


def _inserted_after(columns: dict[str, Column], place: str, column: Column) -> dict[str, Column]:
    order: dict[str, Column] = {}
    for name, known in columns.items():
        order[name] = known
        if name == place:
            order[column.method] = column
    return order


def _families(families: list[str], columns: dict[str, Column], samples: int) -> dict[str, dict[str, Estimate]]:
    """Per family, the accuracy of each method that was run; by drawing questions where they have several samples."""
    table: dict[str, dict[str, Estimate]] = {}
    for family in dict.fromkeys(families):
        places = [place for place, name in enumerate(families) if name == family]
        table[family] = {}
        for name, column in columns.items():
            correct = [column.values["correct"][place] for place in places]
            if samples == 1:
                table[family][name] = wilson(sum(correct), len(places))
            else:
                rates = [value / samples for value in correct]
                table[family][name] = Bootstrap(len(places)).estimate(_mean_at(rates))
    return table


def _mean_at(values: Sequence[float]) -> Statistic:
    return lambda places: statistics.fmean(values[place] for place in places)


def _describe(name: str, plan: Plan) -> str:
    for method in plan.methods:
        if method.name == name and method.routing.policy == "random":
            return f"p = {method.routing.random_p:g}"
        if method.name == name and method.routing.policy == "glimpse":
            return f"H > {method.routing.threshold:g} nats"
    return "at glimpse's share" if name == "random" else ""


def _near_large(rows: Sequence[Row]) -> str:
    """At which share, wall and CPU time a threshold first comes near the large model."""
    large = next((row for row in rows if row.method == "large"), None)
    routed = sorted((row for row in rows if row.threshold_nats is not None), key=lambda row: row.large_token_share)
    if large is None:
        return "large was not run: nothing to come near to"
    near = next((row for row in routed if row.accuracy.value >= large.accuracy.value - COME_NEAR), None)
    if near is None:
        return "no threshold of the sweep comes within two points of large"
    cpu = near.mean_cpu_ms / large.mean_cpu_ms if large.mean_cpu_ms else math.nan
    return (
        f"within two points of large from H > {near.threshold_nats:g} nats on: {near.large_token_share:.1%} of thought "
        f"tokens and {near.large_step_share:.1%} of steps by large, {near.wall_ratio.value:.2f} of its wall time, "
        f"{cpu:.2f} of its CPU time (the threshold was chosen on these very questions)"
    )


def _closing(rows: dict[str, Row], differences: dict[str, Estimate], gap: Estimate) -> dict[str, float]:
    """The numbers of the last line. `wall_ratio`: median over questions of glimpse's wall time over large's."""
    glimpse = rows.get("glimpse")
    edge = differences.get("glimpse - random", UNKNOWN)
    accuracies = {
        f"{name}_accuracy": rows[name].accuracy.value if name in rows else math.nan
        for name in ("large", "small", "glimpse", "random")
    }
    return accuracies | {
        "large_token_share": glimpse.large_token_share if glimpse else math.nan,
        "gap_recovered": gap.value,
        "glimpse_minus_random": edge.value,
        "glimpse_minus_random_low": edge.low,
        "wall_ratio": glimpse.wall_ratio.value if glimpse else math.nan,
    }


def closing_line(report: Report) -> str:
    return " ".join(f"{key}={value:.4f}" for key, value in report.closing.items())


def _unfinished(complete: int, planned: int) -> list[str]:
    if complete == planned:
        return []
    return [f"unfinished: {complete} of {planned} questions have been answered by all methods, and only they count"]
