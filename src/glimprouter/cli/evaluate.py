"""`glimprouter evaluate`: methods side by side on questions with known answers, with intervals; resumable."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from glimprouter.cli.loop import run
from glimprouter.cli.options import (
    ProfileChoice,
    pair_options,
    profile_choice,
    profile_options,
    sampling_options,
    settings,
)
from glimprouter.cli.screen import warn
from glimprouter.cli.suites import SuiteGroup, suites
from glimprouter.config import PUBLISHED_THRESHOLD_NATS, Config, Routing, named_model
from glimprouter.errors import ConfigError, EngineError
from glimprouter.evaluate import profiles, tables
from glimprouter.evaluate.cpu import CpuMeter
from glimprouter.evaluate.folder import Mode, RunFolder, Settings, ThresholdSource, model_card, model_file, new_card
from glimprouter.evaluate.job import (
    PILOT_QUESTIONS,
    Answered,
    CalibrationRun,
    Comparison,
    PhaseStarted,
    recalibrate,
)
from glimprouter.evaluate.job import Progress as Event
from glimprouter.evaluate.methods import METHODS, PLAIN_METHODS, check_methods, needs_reward
from glimprouter.evaluate.report import closing_line, report_of
from glimprouter.evaluate.run import Runner
from glimprouter.evaluate.suites.registry import suite_of
from glimprouter.evaluate.suites.suite import Problem, Suite
from glimprouter.evaluate.unstreamed import can_complete
from glimprouter.pair import TINY_LARGE, TINY_SMALL, Pair, open_pair

QUESTIONS, CALIBRATION_QUESTIONS, QUICK_QUESTIONS = 600, 300, 120
QUICK_PILOT_QUESTIONS = 30
UNSTREAMED = "large-unstreamed"
PLAIN_WIDTH = 130
"""Columns of a table that goes into a file or a pipe."""


@click.group("evaluate", cls=SuiteGroup)
def command() -> None:
    """Compare methods on questions with known answers."""


@command.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
def show(folder: Path) -> None:
    """Print the results in FOLDER again; needs no engine."""
    _print_results(RunFolder(folder))


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
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the same one goes on [default: runs/tiny-…].")
@click.option("--quick", is_flag=True, help=f"A first impression in about a minute: {QUICK_QUESTIONS} questions.")
@click.option("--calibrate", is_flag=True, help="Find the threshold for a large share, on questions never reported.")
@click.option("--target-share", type=float, default=0.25, show_default=True, help="With --calibrate: of tokens.")
@click.option("--write-profile", type=click.Path(path_type=Path), help="With --calibrate: put the result there.")
@click.option("--sweep", is_flag=True, help="Also a grid of thresholds, in the same run.")
def evaluate_suite(
    ctx: click.Context, /, data: Path | None, methods: str | None,
    threshold: float | None, random_p: float | None, out: Path | None, calibrate: bool,
    sweep: bool, target_share: float, write_profile: Path | None, quick: bool, questions: int | None, samples: int,
    **options: Any,
) -> None:  # fmt: skip
    """Compare methods on a suite. Two models of any kind can be put in the tiny pair's place."""
    profile = profile_choice(options)
    config = settings(options)
    _check(calibrate, sweep, target_share, write_profile, samples)
    suite = suite_of(str(ctx.info_name), data=data, seed=config.sampling.seed)
    whole = "calibrate" not in suite.splits
    default = QUICK_QUESTIONS if quick else CALIBRATION_QUESTIONS if calibrate else None if whole else QUESTIONS
    count = default if questions is None else questions
    names = tuple(name.strip() for name in methods.split(",")) if methods is not None else None
    if names is not None:
        check_methods(names)
    if whole:
        _check_whole(suite, names, random_p, sweep)
    wish = _Wish(
        config=dataclasses.replace(config, routing=_routing(config, threshold, random_p)),
        mode="calibrate" if calibrate else "sweep" if sweep else "compare",
        methods=names,
        suite=suite,
        questions=suite.problems("calibrate" if calibrate and not whole else "report", count),
        pilot=[] if whole else suite.problems("calibrate", QUICK_PILOT_QUESTIONS if quick else PILOT_QUESTIONS),
        samples=samples,
        random_p=random_p,
        target_share=target_share,
        profile=profile,
        folder=RunFolder(out or Path("runs") / (suite.name.replace(":", "-") + time.strftime("-%Y%m%d-%H%M%S"))),
    )
    try:
        run(_run(wish))
    except (KeyboardInterrupt, EngineError) as error:
        click.echo(
            f"stopped; what was answered is kept: the same options with --out {wish.folder.path} go on", err=True
        )
        if isinstance(error, EngineError):
            raise
        sys.exit(130)
    _print_results(wish.folder, write_profile)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for, before any model is open."""

    config: Config
    mode: Mode
    methods: tuple[str, ...] | None
    suite: Suite
    questions: list[Problem]
    pilot: list[Problem]
    samples: int
    random_p: float | None
    target_share: float
    profile: ProfileChoice
    folder: RunFolder


def _check(calibrate: bool, sweep: bool, target_share: float, write_profile: Path | None, samples: int) -> None:
    if calibrate and sweep:
        raise ConfigError("--calibrate and --sweep ask different questions; give one of them", field="calibrate")
    if not 0.0 < target_share < 1.0:
        raise ConfigError(f"--target-share is {target_share:g}; accepted: between 0 and 1", field="target_share")
    if samples < 1:
        raise ConfigError(f"--samples is {samples}; accepted: 1 or more", field="samples")
    if write_profile and not calibrate:
        raise ConfigError("--write-profile writes what --calibrate finds; give both", field="write_profile")
    if write_profile:
        profiles.read_profiles(write_profile)


def _check_whole(suite: Suite, methods: tuple[str, ...] | None, random_p: float | None, sweep: bool) -> None:
    """A suite without calibration questions can tell neither Random's share nor a grid of thresholds beforehand."""
    chosen = PLAIN_METHODS if methods is None else methods
    if sweep or ("random" in chosen and random_p is None):
        raise ConfigError(
            f"{suite.name} has no questions set apart for a pilot; give --random-p (the large share of glimpse, from a "
            "calibration on another suite) or --methods without random, and no --sweep",
            field="random_p",
        )
    if "oracle" in chosen:
        raise ConfigError(
            f"--methods names oracle, which only the tiny suite has; {suite.name} knows no steps", field="methods"
        )


def _routing(config: Config, threshold: float | None, random_p: float | None) -> Routing:
    """The config's routing with the options laid over it, which also checks them."""
    routing = config.routing
    return dataclasses.replace(
        routing,
        threshold=routing.threshold if threshold is None else threshold,
        random_p=routing.random_p if random_p is None else random_p,
    )


async def _run(wish: _Wish) -> None:
    console = _console(stderr=True)
    config = wish.config
    async with open_pair(
        config.small, config.large, names=config.models, reward=config.reward, speculate=config.speculate
    ) as pair:
        warn(pair)
        pair = await wish.profile.of(pair)
        if pair.calibrated is not None and pair.calibrated.signal != "entropy":
            raise ConfigError(
                f"--profile is for signal {pair.calibrated.signal!r}; evaluate compares thresholds of entropy",
                field="profile",
            )
        asked = _settings(wish, pair)
        await _begin(wish, asked, pair)
        console.print(f"run folder: {wish.folder.path}", soft_wrap=True)
        remote = any(named_model(spec, config.models).at[0].startswith("http") for spec in _specs(config))
        meter = None if remote else CpuMeter()
        with closing(wish.suite.grader()) as grader:
            runner = Runner(
                pair.small, pair.large, sampling=config.sampling, grade=grader.grade, meter=meter, reward=pair.reward
            )
            await _follow(_job(wish, asked, runner), console)


def _settings(wish: _Wish, pair: Pair) -> Settings:
    """The wish with everything that was left open filled in. Raises ConfigError for what these engines cannot do."""
    routing = wish.config.routing
    threshold_nats, source = _threshold(routing, pair)
    if wish.methods and UNSTREAMED in wish.methods and not can_complete(pair.large):
        raise ConfigError(
            f"--methods names {UNSTREAMED}, but the large engine can only stream; leave it out", field="methods"
        )
    if needs_reward(wish.methods or ()) and pair.reward is None:
        raise ConfigError(
            "--methods names rsd, which asks a process reward model, and there is none: name the address of one with "
            "--reward, or leave it out",
            field="methods",
        )
    methods = wish.methods or tuple(name for name in PLAIN_METHODS if name != UNSTREAMED or can_complete(pair.large))
    return Settings(
        suite=wish.suite.name,
        suite_revision=wish.suite.revision,
        mode=wish.mode,
        questions=len(wish.questions),
        pilot_questions=len(wish.pilot),
        samples=wish.samples,
        methods=() if wish.mode == "calibrate" else methods,
        threshold_nats=threshold_nats,
        threshold_source=source,
        random_p=wish.random_p,
        target_share=wish.target_share,
        routing=routing,
        sampling=wish.config.sampling,
        speculate=wish.config.speculate,
    )


def _threshold(routing: Routing, pair: Pair) -> tuple[float, ThresholdSource]:
    if routing.threshold is not None:
        return routing.threshold, "given"
    return (PUBLISHED_THRESHOLD_NATS, "published") if pair.threshold_nats is None else (pair.threshold_nats, "profile")


def _specs(config: Config) -> tuple[str, str]:
    return config.small or TINY_SMALL, config.large or TINY_LARGE


async def _begin(wish: _Wish, asked: Settings, pair: Pair) -> None:
    """Write the run's card, or find that it is the same as the folder's."""
    engines = (pair.small, pair.large)
    names = wish.config.models
    cards = [
        await model_card(engine, spec, model_file(spec, names))
        for engine, spec in zip(engines, _specs(wish.config), strict=True)
    ]
    wish.folder.begin(new_card(asked, cards[0], cards[1]))


def _job(wish: _Wish, asked: Settings, runner: Runner) -> AsyncIterator[Event]:
    if wish.mode == "calibrate":
        return CalibrationRun(runner, wish.folder, asked, questions=wish.questions).run()
    return Comparison(runner, wish.folder, asked, report=wish.questions, pilot=wish.pilot).run()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


async def _follow(events: AsyncIterator[Event], console: Console) -> None:
    """Draw a bar for each phase; none where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        phase = None
        async for event in events:
            match event:
                case PhaseStarted(name, total, done):
                    phase = progress.add_task(name, total=total, completed=done)
                case Answered():
                    assert phase is not None
                    progress.advance(phase)


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def _print_results(folder: RunFolder, write_profile: Path | None = None) -> None:
    """What a folder holds. Of a comparison, the last line is the closing one."""
    console = _console()
    if folder.card().settings.mode == "calibrate":
        _print_calibration(folder, console, write_profile)
        return
    report = report_of(folder)
    folder.write_summary(report)
    console.print(tables.report_tables(report))
    click.echo(closing_line(report))


def _print_calibration(folder: RunFolder, console: Console, write_profile: Path | None) -> None:
    calibration = recalibrate(folder)
    card = folder.card()
    profile = profiles.profile_of(calibration, card.small.given, card.large.given)
    folder.write_summary(calibration)
    console.print(tables.calibration_table(calibration))
    click.echo("\n" + profiles.snippet(profile), nl=False)
    if write_profile:
        profiles.write_profile(write_profile, profile)
