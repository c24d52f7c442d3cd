"""From a wish, as the command line states it, to a run folder that is filled: opens the pair, writes the card, runs."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import closing

import click

from glimprouter.cli.blocks import console_for
from glimprouter.cli.loop import run
from glimprouter.cli.options import ProfileChoice
from glimprouter.cli.progress import follow
from glimprouter.cli.screen import warn
from glimprouter.config import PUBLISHED_THRESHOLD_NATS, Config, Routing, named_model
from glimprouter.errors import ConfigError, EngineError
from glimprouter.evaluate.budget import Budget, BudgetSpent
from glimprouter.evaluate.collect import Collector
from glimprouter.evaluate.cpu import CpuMeter
from glimprouter.evaluate.folder import Mode, RunFolder, Settings, ThresholdSource, model_card, model_file, new_card
from glimprouter.evaluate.job import CalibrationRun, Collection, Comparison
from glimprouter.evaluate.job import Progress as Event
from glimprouter.evaluate.methods import PLAIN_METHODS, needs_reward
from glimprouter.evaluate.run import Grading, Runner
from glimprouter.evaluate.suites.suite import Problem, Suite
from glimprouter.evaluate.unstreamed import can_complete
from glimprouter.pair import TINY_LARGE, TINY_SMALL, Pair, open_pair

UNSTREAMED = "large-unstreamed"


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for, before any model is open. `methods` None: all that the engines can do."""

    config: Config
    suite: Suite
    mode: Mode
    methods: tuple[str, ...] | None
    questions: Sequence[Problem]
    pilot: Sequence[Problem]
    samples: int
    random_p: float | None
    random_grid: tuple[float, ...]
    concurrency: int
    budget: Budget
    target_share: float
    profile: ProfileChoice
    folder: RunFolder


def fill(wish: Wish) -> None:
    """Run until everything is in the folder. Ends the program where it was stopped before, with how to go on."""
    try:
        run(_run(wish))
    except (KeyboardInterrupt, EngineError, BudgetSpent) as error:
        why = f"stopped: {error}" if isinstance(error, BudgetSpent) else "stopped"
        click.echo(f"{why}; what was answered is kept: the same options with --out {wish.folder.path} go on", err=True)
        if isinstance(error, EngineError):
            raise
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 0)


async def _run(wish: Wish) -> None:
    console = console_for(stderr=True)
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
        with closing(wish.suite.grader()) as grader:
            await follow(_job(wish, asked, pair, grader.grade), console)


def _settings(wish: Wish, pair: Pair) -> Settings:
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
        concurrency=wish.concurrency,
        methods=methods if wish.mode in ("compare", "sweep") else (),
        threshold_nats=threshold_nats,
        threshold_source=source,
        random_p=wish.random_p,
        random_grid=wish.random_grid,
        target_share=wish.target_share,
        routing=routing,
        sampling=wish.config.sampling,
        speculate=wish.config.speculate,
    )


def _threshold(routing: Routing, pair: Pair) -> tuple[float, ThresholdSource]:
    if routing.threshold is not None:
        return routing.threshold, "given"
    return (PUBLISHED_THRESHOLD_NATS, "published") if pair.threshold_nats is None else (pair.threshold_nats, "profile")


def specs(config: Config) -> tuple[str, str]:
    """How the two models are named: the tiny pair, unless others are given."""
    return config.small or TINY_SMALL, config.large or TINY_LARGE


async def _begin(wish: Wish, asked: Settings, pair: Pair) -> None:
    """Write the run's card, or find that it is the same as the folder's."""
    names = wish.config.models
    small, large = [
        await model_card(engine, spec, model_file(spec, names))
        for engine, spec in zip((pair.small, pair.large), specs(wish.config), strict=True)
    ]
    wish.folder.begin(new_card(asked, small, large, command=shlex.join(["glimprouter", *sys.argv[1:]])))


def _job(wish: Wish, asked: Settings, pair: Pair, grade: Grading) -> AsyncIterator[Event]:
    questions = list(wish.questions)
    if wish.mode == "collect":
        routing = dataclasses.replace(asked.routing, threshold=asked.threshold_nats)
        collector = Collector(pair.small, pair.large, routing=routing, sampling=asked.sampling)
        return Collection(collector, wish.folder, asked, questions=questions).run()
    remote = any(named_model(spec, wish.config.models).at[0].startswith("http") for spec in specs(wish.config))
    runner = Runner(
        pair.small,
        pair.large,
        sampling=asked.sampling,
        grade=grade,
        meter=None if remote else CpuMeter(),
        concurrency=wish.concurrency,
        budget=wish.budget,
        reward=pair.reward,
    )
    if wish.mode == "calibrate":
        return CalibrationRun(runner, wish.folder, asked, questions=questions).run()
    return Comparison(runner, wish.folder, asked, report=questions, pilot=list(wish.pilot)).run()
