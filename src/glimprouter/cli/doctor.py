"""`glimprouter doctor`: are two models fit to work together? One line for each thing found, and how to mend it."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from glimprouter.cli.loop import run
from glimprouter.cli.options import pair_options, settings
from glimprouter.config import Config, __version__
from glimprouter.doctor import Report, diagnose
from glimprouter.engines.findings import CODES, Finding
from glimprouter.errors import EngineError, ModelError, PairError
from glimprouter.pair import open_sides

STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
_CODE_WIDTH = max(map(len, CODES))


@click.command("doctor")
@pair_options
@click.option("--json", "as_json", is_flag=True, help="Print findings and measured numbers as one JSON object instead.")
@click.option("--no-color", is_flag=True, help="Plain text.")
def command(as_json: bool, no_color: bool, **options: Any) -> None:
    """Examine a pair before use. Exit code 1 where it cannot work, 0 where it can, warnings or not."""
    config = settings(options)
    report = run(_examined(config))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_object_of(report)), indent=1))
    else:
        _show(report, Console(color_system=None if no_color else "auto", highlight=False))
    sys.exit(0 if report.works else 1)


async def _examined(config: Config) -> Report:
    """Raises InputError where what was given names no model at all."""
    async with open_sides(config.small, config.large, names=config.models, speculate=config.speculate) as (_, outcomes):
        for outcome in outcomes.values():
            if isinstance(outcome, Exception) and not _is_finding(outcome):
                raise outcome
        return await diagnose(outcomes, routing=config.routing)


def _is_finding(error: Exception) -> bool:
    """A server that is down, refuses, or lacks something; not a name that stands for nothing."""
    if isinstance(error, EngineError | PairError):
        return True
    return isinstance(error, ModelError) and (error.field == "tokenizer" or isinstance(error.__cause__, EngineError))


def _object_of(report: Report) -> dict[str, Any]:
    return {
        "glimprouter": __version__,
        "works": report.works,
        "findings": report.findings,
        "measured": report.measured,
        "large_over_small": report.large_over_small,
        "proposed_routing": report.proposed,
    }


def _show(report: Report, console: Console) -> None:
    for finding in report.findings:
        console.print(_line(finding), soft_wrap=True)
    console.print(Text(_verdict(report), style="bold"), soft_wrap=True)


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level:5}", style=STYLES[finding.level])
    line.append(f"{finding.side or 'both':6}{finding.code:{_CODE_WIDTH}}  ", style="dim")
    line.append(finding.text, style="")
    if finding.mend:
        line.append(f"; {finding.mend}", style="bold")
    return line


def _verdict(report: Report) -> str:
    count = {level: sum(finding.level == level for finding in report.findings) for level in STYLES}
    if count["fail"]:
        return f"this pair cannot work: {count['fail']} to mend"
    if count["warn"]:
        return f"this pair works, with {count['warn']} to be warned of"
    return "this pair works"
