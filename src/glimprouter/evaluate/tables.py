"""Reports as tables for a terminal. Accuracies and shares in per cent, differences in points, 95 % intervals beside."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glimprouter.evaluate.calibration import Calibration
from glimprouter.evaluate.records import CUT_THOUGHTS
from glimprouter.evaluate.report import Report, Row
from glimprouter.stats import Estimate

NONE = "–"


def report_tables(report: Report) -> RenderableType:
    """Everything but the closing line."""
    parts: list[RenderableType] = [accuracy_table(report), cost_table(report.rows), family_table(report)]
    if report.near_large is not None:
        parts += [sweep_table(report), Text(report.near_large + "\n")]
    parts += [difference_table(report), *(Text(f"· {note}", style="dim") for note in report.notes)]
    return Group(*parts)


def accuracy_table(report: Report) -> Table:
    asked = f"{report.questions} questions" + (f" x {report.samples} samples" if report.samples > 1 else "")
    table = _table(
        f"Accuracy in % [95 %], {asked}", "method", "", "n", "accuracy", "large: tokens", "steps", "unanswered",
        "cut: " + "/".join(end.removeprefix("thinking_") for end in CUT_THOUGHTS),
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            row.method,
            row.routing,
            str(row.answers),
            per_cent(row.accuracy),
            share(row.large_token_share),
            share(row.large_step_share),
            str(row.unanswered),
            "/".join(str(row.cut[end]) for end in CUT_THOUGHTS) if row.cut else NONE,
        )
    return table


def cost_table(rows: Sequence[Row]) -> Table:
    table = _table(
        "Cost per question, one answer at a time", "method", "wall ms: median", "mean", "x large [95 %]",
        "CPU ms: mean", "hand-overs", "discarded tokens",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.method,
            number(row.median_wall_ms, ".1f"),
            number(row.mean_wall_ms, ".1f"),
            interval(row.wall_ratio, "{:.2f}"),
            number(row.mean_cpu_ms, ".1f"),
            number(row.handovers, ".2f"),
            number(row.discarded_tokens, ".2f"),
        )
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
            points(row.minus_large),
            share(row.large_token_share),
            share(row.large_step_share),
            number(row.mean_wall_ms, ".1f"),
            number(row.wall_ratio.value, ".2f"),
            number(row.mean_cpu_ms, ".1f"),
        )
    return table


def difference_table(report: Report) -> Table:
    table = _table("Paired differences in points [95 %]", "", "")
    for name, difference in report.differences.items():
        table.add_row(name, points(difference))
    table.add_row("gap recovered: (glimpse - share0) / (large - share0), %", per_cent(report.gap_recovered))
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
