"""`glimprouter VERB`: finds the verb, turns errors into messages and exit codes: 2 for bad input, 1 for a failure."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from glimprouter.config import __version__
from glimprouter.errors import GlimprouterError, InputError

VERBS = {
    "ask": "Let two models write one answer, and watch who writes what.",
    "calibrate": "Find the threshold of a pair, from prompts of your own.",
    "doctor": "Check two models before use: can they work together, and how well.",
    "evaluate": "Compare policies on questions with known answers.",
    "serve": "An OpenAI-compatible endpoint in front of the two models.",
    "trace": "Show and summarise recorded answers.",
}


class Verbs(click.Group):
    """Imports a verb only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"glimprouter.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glimprouter")
def group() -> None:
    """Two reasoning models write one answer; a glimpse of each step's first token decides which."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Never shows a traceback for what a user can mend or an engine can do."""
    try:
        code = group.main(arguments, prog_name="glimprouter", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    except InputError as error:
        click.echo(f"glimprouter: {error}", err=True)
        code = 2
    except GlimprouterError as error:
        click.echo(f"glimprouter: {error}", err=True)
        code = 1
    except BrokenPipeError:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
