"""Suites as commands of `evaluate`: every name is one, `gym:TASK` for any task; `suites` lists them."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from glimprouter.evaluate.suites.registry import NAMES, is_suite, known_suites


class SuiteGroup(click.Group):
    """The command registered as `suite` answers to the name of every suite."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(name for name in super().list_commands(ctx) if name != "suite")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "suite" if is_suite(cmd_name) else cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        with formatter.section("Suites"):
            formatter.write_text(", ".join(NAMES))


@click.command("suites")
def suites() -> None:
    """List the suites, with where their questions come from."""
    table = Table("suite", "data", "revision", box=None)
    for suite in known_suites():
        table.add_row(suite.name, suite.source, suite.revision)
    table.add_row("gym:TASK", "reasoning-gym, any task by its name", known_suites()[0].revision)
    Console(highlight=False, width=130).print(table)
