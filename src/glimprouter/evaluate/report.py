"""From answers to figures with intervals. Knows no engine and prints nothing; every figure can be had from a folder.

Accuracies have Wilson's interval where each question was answered once, else one by drawing questions. Differences are
paired: both methods on the same questions, drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glimprouter.config import PUBLISHED_THRESHOLD_NATS
from glimprouter.errors import ConfigError
from glimprouter.evaluate.columns import columns_of, complete_questions
from glimprouter.evaluate.figures import MIXED, NO_DIFFERENCE, Cost, Difference, Figures, accuracy_by_family
from glimprouter.evaluate.folder import Card, Plan, RunFolder
from glimprouter.evaluate.matching import LATENCY, SHARE
from glimprouter.evaluate.methods import RANDOM_POSITIONS
from glimprouter.evaluate.prices import Prices
from glimprouter.evaluate.records import Key, Outcome
from glimprouter.stats import Estimate, holm

COME_NEAR = 0.02
"""Two points of accuracy: what a sweep calls within reach of the large model."""

PAIRS = (
    ("glimpse", "random"),
    ("glimpse", RANDOM_POSITIONS),
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
    `large`; hand-overs and discarded tokens are means per answer; `cut` counts thoughts by what ended them.
    `minus_random` is over Random at the same share of large tokens, `minus_random_latency` at the same mean wall time.
    """

    method: str
    routing: str
    threshold_nats: float | None
    answers: int
    accuracy: Estimate
    minus_large: Difference
    minus_random: Estimate
    minus_random_latency: Estimate
    large_token_share: float
    large_step_share: float
    median_wall_ms: Estimate
    mean_wall_ms: Estimate
    wall_ratio: Estimate
    mean_cpu_ms: float
    handovers: float
    discarded_tokens: float
    cost: Cost
    cut: dict[str, int]
    unanswered: int


@dataclass(frozen=True, slots=True)
class Report:
    """`questions` of the `planned` ones were answered by all methods; only they count. `families` maps a family to the
    accuracy of each method; p-values of `differences` are corrected for there being several. `area_above_random` is
    the mean lead over Random between a share of 0 and of 1. `closing` is the last line: plain numbers, NaN for what
    was not run."""

    questions: int
    planned: int
    samples: int
    rows: list[Row]
    families: dict[str, dict[str, Estimate]]
    differences: dict[str, Difference]
    gap_recovered: Estimate
    area_above_random: Estimate
    near_large: str | None
    closing: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def row(self, method: str) -> Row | None:
        return next((row for row in self.rows if row.method == method), None)


def report_of(folder: RunFolder, prices: Prices | None = None) -> Report:
    """The report of a folder, finished or not. Raises ConfigError where no question is done."""
    card, plan = folder.card(), folder.plan()
    return make_report(card, plan, {outcome.key: outcome for outcome in folder.outcomes()}, prices)


def make_report(card: Card, plan: Plan, outcomes: dict[Key, Outcome], prices: Prices | None = None) -> Report:
    samples = card.settings.samples
    methods = [method.name for method in plan.methods]
    complete = complete_questions(outcomes, plan.questions, methods, samples)
    if not complete:
        raise ConfigError("no question has been answered by all methods yet; go on with the run first", field="out")
    columns = columns_of(outcomes, complete, methods, samples)
    figures = Figures(columns, plan, samples)
    rows = [_row(name, figures, plan, prices or {}) for name in figures.columns]
    differences = _differences(figures)
    gap = figures.gap_recovered()
    families = [outcomes[Key(question, methods[0], 0)].family for question in complete]
    return Report(
        questions=len(complete),
        planned=len(plan.questions),
        samples=samples,
        rows=rows,
        families=accuracy_by_family(families, columns, samples),
        differences=differences,
        gap_recovered=gap,
        area_above_random=figures.area_above_random(),
        near_large=_near_large(rows) if card.settings.mode == "sweep" else None,
        closing=_closing({row.method: row for row in rows}, differences, gap),
        notes=_notes(card, plan, figures.match_note(), len(complete)),
    )


def _row(name: str, figures: Figures, plan: Plan, prices: Prices) -> Row:
    column = figures.columns[name]
    routing = next((method.routing for method in plan.methods if method.name == name), None)
    return Row(
        method=name,
        routing=_describe(name, plan),
        threshold_nats=routing.threshold if routing else None,
        answers=round(sum(column.values["answers"])),
        accuracy=figures.accuracy(name),
        minus_large=figures.difference(name, "large") if name != MIXED else NO_DIFFERENCE,
        minus_random=figures.minus_random(name, SHARE),
        minus_random_latency=figures.minus_random(name, LATENCY),
        large_token_share=figures.share(name, "tokens"),
        large_step_share=figures.share(name, "steps"),
        median_wall_ms=figures.median_wall_ms(name),
        mean_wall_ms=figures.mean_wall_ms(name),
        wall_ratio=figures.wall_ratio(name),
        mean_cpu_ms=figures.mean(name, "cpu_ms"),
        handovers=figures.mean(name, "handovers"),
        discarded_tokens=figures.mean(name, "discarded_tokens"),
        cost=figures.cost(name, prices),
        cut=column.cut,
        unanswered=column.unanswered,
    )


def _differences(figures: Figures) -> dict[str, Difference]:
    found = {f"{a} - {b}": figures.difference(a, b) for a, b in PAIRS if figures.has(a, b)}
    corrected = holm([one.p for one in found.values()])
    return {name: Difference(one.estimate, p) for (name, one), p in zip(found.items(), corrected, strict=True)}


def _notes(card: Card, plan: Plan, match: str | None, complete: int) -> list[str]:
    settings = card.settings
    notes = [*plan.notes, *([match] if match else [])]
    if settings.threshold_source == "published":
        notes.append(UNCALIBRATED)
    if settings.concurrency > 1:
        notes.append(
            f"{settings.concurrency} answers at once: times are of answers that shared the engines, and CPU times "
            "could not be told apart"
        )
    return [*notes, *_unfinished(complete, len(plan.questions)), NOTE]


def _describe(name: str, plan: Plan) -> str:
    for method in plan.methods:
        if method.name == name and method.routing.policy == "random":
            return f"p = {method.routing.random_p:g}"
        if method.name == name and method.routing.policy == "glimpse":
            return f"H > {method.routing.threshold:g} nats"
    return "at glimpse's share" if name == MIXED else ""


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


def _closing(rows: dict[str, Row], differences: dict[str, Difference], gap: Estimate) -> dict[str, float]:
    """The numbers of the last line. `wall_ratio`: median over questions of glimpse's wall time over large's."""
    glimpse = rows.get("glimpse")
    edge = differences.get("glimpse - random", NO_DIFFERENCE).estimate
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
