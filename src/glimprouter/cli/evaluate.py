"""`glimprouter evaluate`: methods side by side on questions with known answers, with intervals; resumable."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from glimprouter.cli import evaluate_show
from glimprouter.cli.evaluate_run import Wish, fill
from glimprouter.cli.options import pair_options, profile_choice, profile_options, sampling_options, settings
from glimprouter.cli.suites import SuiteGroup, suites
from glimprouter.config import Config, Routing
from glimprouter.errors import ConfigError
from glimprouter.evaluate import profiles
from glimprouter.evaluate.budget import Budget
from glimprouter.evaluate.folder import Mode, RunFolder
from glimprouter.evaluate.job import PILOT_QUESTIONS
from glimprouter.evaluate.methods import METHODS, PLAIN_METHODS, RANDOM_POSITIONS, check_methods
from glimprouter.evaluate.prices import parse_prices
from glimprouter.evaluate.suites.registry import suite_of
from glimprouter.evaluate.suites.suite import Suite

QUESTIONS, CALIBRATION_QUESTIONS, QUICK_QUESTIONS = 600, 300, 120
QUICK_PILOT_QUESTIONS = 30


@click.group("evaluate", cls=SuiteGroup)
def command() -> None:
    """Compare methods on questions with known answers."""


for part in evaluate_show.commands:
    command.add_command(part)
command.add_command(suites)


@command.command("suite")
@click.pass_context
@pair_options
@sampling_options
@profile_options
@click.option("--n", "questions", type=int, help=f"Questions in all, spread evenly [default: all; tiny: {QUESTIONS}].")
@click.option(
    "--data", type=click.Path(path_type=Path), help="A local file in the data set's format: JSON Lines or CSV."
)
@click.option("--samples", type=int, default=1, show_default=True, help="Answers to each question by each method.")
@click.option("--methods", help=f"Comma-separated, of: {', '.join(METHODS)} [default: {', '.join(PLAIN_METHODS)}].")
@click.option("--threshold", type=float, help="Of glimpse, in nats [default: the pair's own, else 0.9].")
@click.option("--random-p", type=float, help="Random's probability, at about glimpse's share [default: from a pilot].")
@click.option("--random-grid", metavar="P,P,…", help="More of Random, to match methods of any large share.")
@click.option("--concurrency", type=int, default=1, show_default=True, help="Answers at once; CPU times need 1.")
@click.option("--max-minutes", type=float, help="Stop, to be gone on with later, after so long.")
@click.option("--max-large-tokens", type=int, help="The same, once the large model has drawn so many tokens.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the same one goes on [default: runs/tiny-…].")
@click.option("--quick", is_flag=True, help=f"A first impression in about a minute: {QUICK_QUESTIONS} questions.")
@click.option("--calibrate", is_flag=True, help="Find the threshold for a large share, on questions never reported.")
@click.option("--target-share", type=float, default=0.25, show_default=True, help="With --calibrate: of tokens.")
@click.option("--write-profile", type=click.Path(path_type=Path), help="With --calibrate: put the result there.")
@click.option("--sweep", is_flag=True, help="Also a grid of thresholds, in the same run.")
@click.option("--collect", is_flag=True, help="Ask both models at every step instead, to compare signals.")
@evaluate_show.price_option
def evaluate_suite(
    ctx: click.Context, /, data: Path | None,
    methods: str | None, threshold: float | None, random_p: float | None, out: Path | None, calibrate: bool,
    sweep: bool, collect: bool, target_share: float, write_profile: Path | None, quick: bool, questions: int | None,
    samples: int, random_grid: str | None, concurrency: int, max_minutes: float | None, max_large_tokens: int | None,
    prices: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Compare methods on a suite. Two models of any kind can be put in the tiny pair's place."""
    profile = profile_choice(options)
    config, paid = settings(options), parse_prices(prices)
    budget = Budget(max_minutes, max_large_tokens)
    mode = _mode(calibrate=calibrate, sweep=sweep, collect=collect)
    _check(mode, target_share, write_profile, samples=samples, concurrency=concurrency)
    suite = suite_of(str(ctx.info_name), data=data, seed=config.sampling.seed)
    whole = "calibrate" not in suite.splits
    default = QUICK_QUESTIONS if quick else CALIBRATION_QUESTIONS if calibrate else None if whole else QUESTIONS
    count = default if questions is None else questions
    names = tuple(name.strip() for name in methods.split(",")) if methods is not None else None
    if names is not None:
        check_methods(names)
    if whole:
        _check_whole(suite, names, random_p, sweep)
    wish = Wish(
        config=dataclasses.replace(config, routing=_routing(config, threshold, random_p)),
        suite=suite,
        mode=mode,
        methods=names,
        questions=suite.problems("calibrate" if calibrate and not whole else "report", count),
        pilot=[] if whole else suite.problems("calibrate", QUICK_PILOT_QUESTIONS if quick else PILOT_QUESTIONS),
        samples=samples,
        random_p=random_p,
        random_grid=_probabilities(random_grid),
        concurrency=concurrency,
        budget=budget,
        target_share=target_share,
        profile=profile,
        folder=RunFolder(out or Path("runs") / (suite.name.replace(":", "-") + time.strftime("-%Y%m%d-%H%M%S"))),
    )
    fill(wish)
    evaluate_show.print_results(wish.folder, write_profile, prices=paid)


def _mode(**wanted: bool) -> Mode:
    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise ConfigError(
            f"{' and '.join(f'--{name}' for name in chosen)} ask different questions; give one of them", field=chosen[0]
        )
    modes: dict[str, Mode] = {"calibrate": "calibrate", "sweep": "sweep", "collect": "collect"}
    return modes[chosen[0]] if chosen else "compare"


def _check(mode: Mode, target_share: float, write_profile: Path | None, **counts: int) -> None:
    if not 0.0 < target_share < 1.0:
        raise ConfigError(f"--target-share is {target_share:g}; accepted: between 0 and 1", field="target_share")
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"--{name} is {count}; accepted: 1 or more", field=name)
    if write_profile and mode != "calibrate":
        raise ConfigError("--write-profile writes what --calibrate finds; give both", field="write_profile")
    if write_profile:
        profiles.read_profiles(write_profile)


def _check_whole(suite: Suite, methods: tuple[str, ...] | None, random_p: float | None, sweep: bool) -> None:
    """A suite without calibration questions can tell neither Random's share nor a grid of thresholds beforehand."""
    chosen = PLAIN_METHODS if methods is None else methods
    needs_pilot = sweep or RANDOM_POSITIONS in chosen or ("random" in chosen and random_p is None)
    if needs_pilot:
        raise ConfigError(
            f"{suite.name} has no questions set apart for a pilot; give --random-p (the large share of glimpse, from a "
            "calibration on another suite) or --methods without "
            "random; and neither random-positions nor --sweep",
            field="random_p",
        )
    if "oracle" in chosen:
        raise ConfigError(
            f"--methods names oracle, which only the tiny suite has; {suite.name} knows no steps", field="methods"
        )


def _probabilities(given: str | None) -> tuple[float, ...]:
    try:
        grid = tuple(sorted({float(part) for part in given.split(",")} if given else ()))
    except ValueError:
        grid = (-1.0,)
    if not all(0.0 < p < 1.0 for p in grid):
        raise ConfigError(
            f"--random-grid is {given!r}; accepted: numbers between 0 and 1 with commas between", field="random_grid"
        )
    return grid


def _routing(config: Config, threshold: float | None, random_p: float | None) -> Routing:
    """The config's routing with the options laid over it, which also checks them."""
    routing = config.routing
    return dataclasses.replace(
        routing,
        threshold=routing.threshold if threshold is None else threshold,
        random_p=routing.random_p if random_p is None else random_p,
    )
