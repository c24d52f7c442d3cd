"""`glimprouter ask`: one question, answered by two models before your eyes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from glimprouter.cli.loop import run
from glimprouter.cli.options import (
    ProfileChoice,
    pair_options,
    profile_choice,
    profile_options,
    routing_options,
    sampling_options,
    settings,
)
from glimprouter.cli.screen import Screen, warn
from glimprouter.config import Config
from glimprouter.errors import RequestError
from glimprouter.flow import request as requests
from glimprouter.flow import trace as traces
from glimprouter.flow.answer import Started
from glimprouter.flow.trace import Trace
from glimprouter.pair import UNCALIBRATED, open_pair
from glimprouter.policies import check_policy


@click.command("ask")
@click.argument("question")
@pair_options
@routing_options
@sampling_options
@profile_options
@click.option("--system", help="System prompt.")
@click.option("--stop", multiple=True, help="End the answer before this text; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole trace as one JSON object instead.")
@click.option("--trace", "trace_path", type=click.Path(path_type=Path), help="Append the trace to this JSONL file.")
@click.option("--no-color", is_flag=True, help="Plain text.")
def command(
    question: str, system: str | None, stop: tuple[str, ...], as_json: bool, trace_path: Path | None, no_color: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Ask QUESTION (- reads it from standard input). Each step stands in its author's colour, H_init beside it."""
    profile = profile_choice(options)
    config = settings(options)
    check_policy(config.routing.policy, config.routing.params)
    text = sys.stdin.read() if question == "-" else question
    request = requests.ask(text.strip(), system=system, routing=config.routing, sampling=config.sampling, stop=stop)
    if trace_path:
        traces.check_writable(trace_path)
    console = Console(color_system=None if no_color else "auto", highlight=False, quiet=as_json)
    trace = run(_answer(request, config, profile, console))
    if trace is None:
        raise RequestError("interrupted before the answer began")
    if trace_path:
        traces.append(trace_path, trace)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(trace), indent=1))
    if trace.error:
        if as_json:
            click.echo(f"glimprouter: {trace.error}", err=True)
        sys.exit(130 if trace.error == "cancelled" else 1)


async def _answer(request: requests.Request, config: Config, profile: ProfileChoice, console: Console) -> Trace | None:
    """The trace of the answer, whole or broken off; None where Ctrl-C came before it began."""
    trace: Trace | None = None
    screen = Screen(console)
    try:
        async with open_pair(
            config.small,
            config.large,
            names=config.models,
            reward=config.reward,
            speculate=config.speculate,
            routing=request.routing,
        ) as pair:
            routing = request.routing
            warn(pair)
            pair = await profile.of(pair)
            uncalibrated = pair.threshold_nats is None and pair.calibrated is None
            if routing.policy == "glimpse" and uncalibrated and routing.threshold is None:
                Console(stderr=True, highlight=False).print(UNCALIBRATED, style="dim")
            async with aclosing(pair.router().stream(request)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        trace = event.trace
                    screen.show(event)
    except asyncio.CancelledError:
        # Ctrl-C: both engines are stopped by now; what was written is still shown and kept.
        if trace is not None:
            screen.finish(trace)
    return trace
