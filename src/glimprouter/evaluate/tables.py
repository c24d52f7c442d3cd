"""Reports as tables."""

from __future__ import annotations

import math

from glimprouter.evaluate.calibration import Calibration
from glimprouter.evaluate.document import Block, Grid, Paragraph, Points
from glimprouter.evaluate.formats import NONE, interval, number, per_cent, points, share
from glimprouter.evaluate.records import CUT_THOUGHTS
from glimprouter.evaluate.report import Report
from glimprouter.evaluate.self_correction import After, SelfCorrection
from glimprouter.evaluate.signals import SignalTable


def report_blocks(report: Report) -> list[Block]:
    """Everything but the closing line."""
    return [
        accuracy_table(report),
        time_table(report),
        cost_table(report),
        family_table(report),
        *sweep_blocks(report),
        difference_table(report),
        Points(tuple(report.notes)),
    ]


def accuracy_table(report: Report) -> Grid:
    asked = f"{report.questions} questions" + (f" x {report.samples} samples" if report.samples > 1 else "")
    cut = "cut: " + "/".join(end.removeprefix("thinking_") for end in CUT_THOUGHTS)
    columns = ("method", "", "n", "accuracy", "- Random, same share", "large: tokens", "steps", "unanswered", cut)
    table = Grid(f"Accuracy in % [95 %], {asked}", columns)
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


def time_table(report: Report) -> Grid:
    columns = ("method", "median wall", "mean", "x large", "CPU: mean", "accuracy - Random, same time")
    table = Grid("Time per question in ms [95 %]", columns)
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


def cost_table(report: Report) -> Grid:
    """Tokens; with prices also money, in whatever the prices are in."""
    priced = any(row.cost.money for row in report.rows)
    columns = ("method", "small: read", "written", "large: read", "written", "thrown away", "hand-overs")
    table = Grid("Cost per answer in tokens", (*columns, *(["money, for 1000 answers"] if priced else [])))
    for row in report.rows:
        cost = row.cost
        tokens = (cost.small_read, cost.small_written, cost.large_read, cost.large_written, row.discarded_tokens)
        money = [interval(cost.money, "{:.4g}", scale=1000)] if cost.money else []
        table.add_row(row.method, *(number(value, ".1f") for value in tokens), number(row.handovers, ".2f"), *money)
    return table


def family_table(report: Report) -> Grid:
    table = Grid("Accuracy by family, in % [95 %]", ("method", *report.families))
    methods = next(iter(report.families.values()))
    for method in methods:
        table.add_row(method, *(interval(by[method], "{:.0f}", scale=100) for by in report.families.values()))
    return table


def sweep_blocks(report: Report) -> list[Block]:
    """The thresholds of a sweep; nothing for another run."""
    if report.near_large is None:
        return []
    columns = ("nats", "accuracy", "- large, points", "large: tokens", "steps", "wall ms", "x large", "CPU ms")
    table = Grid("Thresholds", columns)
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
    return [table, Paragraph(report.near_large)]


def difference_table(report: Report) -> Grid:
    table = Grid("Paired differences in points [95 %]", ("", "", "p (permutation test, Holm)"))
    for name, difference in report.differences.items():
        table.add_row(name, points(difference.estimate), number(difference.p, ".2g"))
    table.add_row("gap recovered: (glimpse - share0) / (large - share0), %", per_cent(report.gap_recovered), "")
    if not math.isnan(report.area_above_random.value):
        table.add_row("mean lead of glimpse over Random, over all shares", points(report.area_above_random), "")
    return table


def calibration_blocks(calibration: Calibration) -> list[Block]:
    """The curve, and what was chosen."""
    title = f"Calibration on {calibration.questions} questions that are never reported"
    table = Grid(title, ("threshold, nats", "large: tokens", "steps", "accuracy in % [95 %]", ""))
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
        return [table]
    jump = (
        f"No threshold gives a share of {calibration.target_share:.0%}: it jumps, for many steps have nearly the same "
        "entropy. The nearest was chosen."
    )
    return [table, Paragraph(jump)]


def signal_table(table: SignalTable) -> Grid:
    """AUROC and the area under the accuracy-share curve, best signal first."""
    title = (
        f"Does a signal tell that small's step is wrong? {table.steps} steps of {table.questions} questions could be "
        f"checked, {table.wrong} are wrong"
    )
    grid = Grid(title, ("signal", "AUROC [95 %]", "steps right, mean over all shares, % [95 %]"))
    for row in table.rows:
        grid.add_row(row.signal, interval(row.auroc, "{:.3f}"), per_cent(row.area))
    if not math.isnan(table.no_signal):
        grid.add_row("a signal that tells nothing", "0.500", f"{100 * table.no_signal:.1f}")
    return grid


def self_correction_table(found: SelfCorrection) -> Grid:
    grid = Grid(
        f"After a slip of small, and after a right step of its own (threshold {found.threshold_nats:.4g} nats)",
        ("in % [95 %]", "after a slip", "after none"),
    )
    both = (found.after_slip, found.after_none)

    def row(name: str, *cells: str) -> None:
        grid.add_row(name, *cells)

    row("steps", *(str(after.steps) for after in both))
    row("H_init above the threshold", *(per_cent(after.above_threshold) for after in both))
    for who in After.WRITERS:
        row(f"mended / nothing wrong said, if by {who}", *(per_cent(getattr(after, who)) for after in both))
    return grid
