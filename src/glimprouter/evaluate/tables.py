"""Reports as tables for a terminal. Accuracies and shares in per cent, differences in points, 95 % intervals beside."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glimprouter.evaluate.calibration import Calibration
from glimprouter.evaluate.records import CUT_THOUGHTS
from glimprouter.evaluate.report import Report
from glimprouter.stats import Estimate

NONE = "–"


def report_tables(report: Report) -> RenderableType:
    """Everything but the closing line."""
    parts: list[RenderableType] = [accuracy_table(report), time_table(report), cost_table(report), family_table(report)]
    if report.near_large is not None:
        parts += [sweep_table(report), Text(report.near_large + "\n")]
    parts += [difference_table(report), *(Text(f"· {note}", style="dim") for note in report.notes)]
    return Group(*parts)


def accuracy_table(report: Report) -> Table:
    asked = f"{report.questions} questions" + (f" x {report.samples} samples" if report.samples > 1 else "")
    table = _table(
        f"Accuracy in % [95 %], {asked}", "method", "", "n", "accuracy", "- Random, same share", "large: tokens",
        "steps", "unanswered", "cut: " + "/".join(end.removeprefix("thinking_") for end in CUT_THOUGHTS),
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            row.method,
            row.routing,
            str(row.answers),
            per_cent(row.accuracy),
            points(row.minus_random),
            share(row.large_token_share),
            share(row.large_step_share),
            str(row.unanswered),
            "/".join(str(row.cut[end]) for end in CUT_THOUGHTS) if row.cut else NONE,
        )
    return table


def time_table(report: Report) -> Table:
    table = _table(
        "Time per question in ms [95 %]", "method", "median wall", "mean", "x large", "CPU: mean",
        "- Random, same time",
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            row.method,
            interval(row.median_wall_ms, "{:.1f}"),
            interval(row.mean_wall_ms, "{:.1f}"),
            interval(row.wall_ratio, "{:.2f}"),
            number(row.mean_cpu_ms, ".1f"),
            points(row.minus_random_latency),
        )
    return table


def cost_table(report: Report) -> Table:
    """Tokens; with prices also money, in whatever the prices are in."""
    priced = any(row.cost.money for row in report.rows)
    table = _table(
        "Cost per answer in tokens", "method", "small: read", "written", "large: read", "written", "thrown away",
        "hand-overs", *(["money, for a thousand answers"] if priced else []),
    )  # fmt: skip
    for row in report.rows:
        cost = row.cost
        tokens = (cost.small_read, cost.small_written, cost.large_read, cost.large_written, row.discarded_tokens)
        money = [interval(cost.money, "{:.4g}", scale=1000)] if cost.money else []
        table.add_row(row.method, *(number(value, ".1f") for value in tokens), number(row.handovers, ".2f"), *money)
    return table


def family_table(report: Report) -> Table:
    table = _table("Accuracy by family, in % [95 %]", "method", *report.families)
    methods = next(iter(report.families.values()))
    for method in methods:
        table.add_row(method, *(interval(by[method], "{:.0f}", scale=100) for by in report.families.values()))
    return table


def sweep_table(report: Report) -> Table:
    table = _table(
        "Thresholds", "nats", "accuracy", "- large, points", "large: tokens", "steps", "wall ms", "x large", "CPU ms"
    )
    routed = [row for row in report.rows if row.threshold_nats is not None]
    for row in sorted(routed, key=lambda row: -(row.threshold_nats or 0.0)):
        table.add_row(
            number(row.threshold_nats, ".4g"),
            per_cent(row.accuracy),
            points(row.minus_large.estimate),
            share(row.large_token_share),
            share(row.large_step_share),
            number(row.mean_wall_ms.value, ".1f"),
            number(row.wall_ratio.value, ".2f"),
            number(row.mean_cpu_ms, ".1f"),
        )
    return table


def difference_table(report: Report) -> Table:
    table = _table("Paired differences in points [95 %]", "", "", "p (permutation test, Holm)")
    for name, difference in report.differences.items():
        table.add_row(name, points(difference.estimate), number(difference.p, ".2g"))
    table.add_row("gap recovered: (glimpse - share0) / (large - share0), %", per_cent(report.gap_recovered), "")
    if not math.isnan(report.area_above_random.value):
        table.add_row("mean lead of glimpse over Random, over all shares", points(report.area_above_random), "")
    return table


def calibration_table(calibration: Calibration) -> RenderableType:
    """The curve, and what was chosen."""
    table = _table(
        f"Calibration on {calibration.questions} questions that are never reported", "threshold, nats",
        "large: tokens", "steps", "accuracy in % [95 %]", "",
    )  # fmt: skip
    for point in calibration.curve:
        alone = math.isnan(point.threshold_nats)
        table.add_row(
            "small thinks alone" if alone else f"{point.threshold_nats:.4g}",
            share(point.token_share),
            share(point.step_share),
            per_cent(point.accuracy),
            "chosen" if point is calibration.chosen else "",
        )
    if calibration.settled:
        return table
    jump = (
        f"No threshold gives a share of {calibration.target_share:.0%}: it jumps, for many steps have nearly the same "
        "entropy. The nearest was chosen."
    )
    return Group(table, Text(jump, style="yellow"))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def number(value: float | None, form: str) -> str:
    return NONE if value is None or math.isnan(value) else format(value, form)


def share(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.1%}"


def per_cent(estimate: Estimate) -> str:
    return interval(estimate, "{:.1f}", scale=100)


def points(estimate: Estimate) -> str:
    return interval(estimate, "{:+.1f}", scale=100)


def interval(estimate: Estimate, form: str, *, scale: float = 1.0) -> str:
    """`value [low, high]`; a dash where there is no value, a question mark where there is no interval."""
    if math.isnan(estimate.value):
        return NONE
    value, low, high = (form.format(scale * part) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [?]" if math.isnan(estimate.low) else f"{value} [{low}, {high}]"
