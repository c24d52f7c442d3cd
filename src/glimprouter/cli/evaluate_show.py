"""`glimprouter evaluate show`, `report`, `compare` and `pack`: what run folders hold. No engine is needed."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from glimprouter.cli.blocks import console_for
from glimprouter.cli.blocks import show as show_blocks
from glimprouter.evaluate import profiles, tables
from glimprouter.evaluate.collect import read_collected
from glimprouter.evaluate.folder import RunFolder
from glimprouter.evaluate.job import recalibrate
from glimprouter.evaluate.prices import Prices, parse_prices
from glimprouter.evaluate.report import closing_line, report_of
from glimprouter.evaluate.self_correction import self_correction
from glimprouter.evaluate.signals import compare_signals, steps_of

price_option = click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="SIDE=IN:OUT[:CACHED]",
    help="Money for a million tokens read and written by small or large; give both.",
)


@click.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@price_option
def show(folder: Path, prices: tuple[str, ...]) -> None:
    """Print the results in FOLDER again; needs no engine."""
    print_results(RunFolder(folder), prices=parse_prices(prices))


def print_results(folder: RunFolder, write_profile: Path | None = None, *, prices: Prices | None = None) -> None:
    """What a folder holds. Of a comparison, the last line is the closing one."""
    console = console_for()
    mode = folder.card().settings.mode
    if mode == "calibrate":
        _print_calibration(folder, console, write_profile)
    elif mode == "collect":
        thoughts = list(read_collected(folder.collected_file))
        threshold_nats = folder.card().settings.threshold_nats
        show_blocks([tables.signal_table(compare_signals(list(steps_of(thoughts))))], console)
        show_blocks([tables.self_correction_table(self_correction(thoughts, threshold_nats))], console)
    else:
        report = report_of(folder, prices)
        folder.write_summary(report)
        show_blocks(tables.report_blocks(report), console)
        click.echo(closing_line(report))


def _print_calibration(folder: RunFolder, console: Console, write_profile: Path | None) -> None:
    calibration = recalibrate(folder)
    card = folder.card()
    profile = profiles.profile_of(calibration, card.small.given, card.large.given)
    folder.write_summary(calibration)
    show_blocks(tables.calibration_blocks(calibration), console)
    click.echo("\n" + profiles.snippet(profile), nl=False)
    if write_profile:
        profiles.write_profile(write_profile, profile)


@click.command("report")
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for report.md and report.html.")
@price_option
def report(folders: tuple[Path, ...], out: Path, prices: tuple[str, ...]) -> None:
    """Turn run FOLDERS into one page, as Markdown and as HTML that needs no network.

    Comparisons and sweeps give tables, collections (--collect) what signals know. The same folders always
    give the same bytes.
    """
    from glimprouter.evaluate.pages import write_report

    for path in write_report([RunFolder(folder) for folder in folders], out, parse_prices(prices)):
        click.echo(path)


@click.command("pack")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The smaller folder.")
def pack(folder: Path, out: Path) -> None:
    """Make a run folder small enough to keep: every outcome, one answer with its trace, no other text."""
    from glimprouter.evaluate.packing import pack_folder

    for path in pack_folder(RunFolder(folder), out):
        click.echo(f"{path}: {path.stat().st_size:,} bytes")


commands = (show, report, pack)
