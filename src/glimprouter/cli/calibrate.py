"""`glimprouter calibrate`: from your own prompts to the threshold of your own pair."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from glimprouter.calibrate.answers import AnswerStore, Grade
from glimprouter.calibrate.curve import Prices
from glimprouter.calibrate.fingerprint import Model, fingerprint
from glimprouter.calibrate.job import Aim, Calibration, Result
from glimprouter.calibrate.picture import draw as draw_picture
from glimprouter.calibrate.profile import profile_of, write_profile
from glimprouter.calibrate.prompts import Question, is_right, read_questions
from glimprouter.cli.loop import run
from glimprouter.cli.options import pair_options, sampling_options, settings
from glimprouter.cli.screen import warn
from glimprouter.config import Config
from glimprouter.errors import ConfigError
from glimprouter.evaluate.graders.extraction import extract
from glimprouter.flow.signals import ENTROPY, SIGNALS
from glimprouter.pair import Pair, open_pair
from glimprouter.stats import Estimate

TINY, TINY_QUESTIONS = "tiny", 200
PLAIN_WIDTH = 130


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

    config: Config
    questions: list[Question]
    grade: Grade
    aim: Aim
    signal: str
    prices: Prices
    parallel: int
    collect: bool
    by_family: bool
    out: Path | None


@click.command("calibrate")
@click.option("--prompts", required=True, help="Text file, a question a line, or JSON Lines; or tiny, the tiny suite.")
@click.option("--n", "count", type=int, help=f"The first N questions [default: all; of tiny {TINY_QUESTIONS}].")
@click.option("--target-share", type=float, help="Wanted share of large, from 0 to 1 [default: 0.25].")
@click.option("--share-of", type=click.Choice(["steps", "tokens"]), default="steps", show_default=True)
@click.option("--target-latency-ratio", type=float, help="Wanted: no slower than this part of large alone.")
@click.option("--target-cost-ratio", type=float, help="Wanted: no dearer than this part of large alone.")
@click.option("--margin", type=float, help="Wanted: at most so much accuracy lost; needs answers.")
@click.option("--confidence", type=float, default=0.9, show_default=True, help="With --margin.")
@click.option("--signal", type=click.Choice(SIGNALS), default=ENTROPY.name, show_default=True)
@click.option("--family-field", help="Field of the prompts file that names a family: each gets a threshold too.")
@click.option("--small-price", type=float, default=Prices().small, show_default=True, help="Of a token; large's is 1.")
@click.option("--read-price", type=float, default=Prices().read, show_default=True, help="Of reading; writing's is 1.")
@click.option("--collect", is_flag=True, help="Also run large alone, for ratios and accuracy beside every threshold.")
@click.option("--parallel", type=int, default=1, show_default=True, help="Answers at once; times mean little above 1.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep all answers in this JSON Lines file; it goes on.")
@click.option("--write", type=click.Path(path_type=Path), help="Put the profile there, for --profile.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the curve (.svg, .png, .pdf).")
@pair_options
@sampling_options
def command(write: Path | None, picture: Path | None, **options: Any) -> None:
    """Find the threshold for a pair: run your prompts by small alone, then with routing on until the figure settles."""
    wish = _wish(options)
    console = Console(stderr=True, highlight=False)
    try:
        result, families, models = run(_run(wish, console))
    except KeyboardInterrupt:
        click.echo("stopped; " + (f"--out {wish.out} goes on" if wish.out else "give --out to go on"), err=True)
        sys.exit(130)
    shown = Console(highlight=False)
    shown = shown if shown.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
    _print(result, families, shown)
    if picture:
        draw_picture(result, picture)
    if result.chosen is None:
        sys.exit(1)
    if write:
        thresholds = {name: one.calibrated.threshold for name, one in families.items()}
        routing, sampling = wish.config.routing, wish.config.sampling
        write_profile(write, profile_of(result, thresholds, *models, routing=routing, sampling=sampling))
        click.echo(f"profile: {write}")


def _wish(options: dict[str, Any]) -> _Wish:
    taken = {
        name: options.pop(name)
        for name in ("prompts", "count", "share_of", "signal", "family_field", "small_price", "read_price",
                     "collect", "parallel", "out")
    }  # fmt: skip
    aim = _aim(options, taken["share_of"])
    if taken["parallel"] < 1:
        raise ConfigError(f"--parallel is {taken['parallel']}; accepted: 1 or more", field="parallel")
    questions, grade = _questions(taken["prompts"], taken["count"], taken["family_field"])
    return _Wish(
        settings(options),
        questions,
        grade,
        aim,
        taken["signal"],
        Prices(taken["small_price"], taken["read_price"]),
        taken["parallel"],
        taken["collect"],
        taken["family_field"] is not None,
        taken["out"],
    )


def _aim(options: dict[str, Any], share_of: str) -> Aim:
    """One of the four; takes its options out of the others."""
    confidence = options.pop("confidence")
    kinds = {
        "target_share": "step_share" if share_of == "steps" else "token_share",
        "target_latency_ratio": "latency_ratio",
        "target_cost_ratio": "cost_ratio",
        "margin": "accuracy",
    }
    given = {name: value for name in kinds if (value := options.pop(name)) is not None}
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{names} are given; accepted: one of them", field=next(iter(given)))
    name, value = next(iter(given.items()), ("target_share", 0.25))
    for field, number in ((name, value), ("confidence", confidence)):
        if not 0.0 < number < 1.0:
            raise ConfigError(f"--{field.replace('_', '-')} is {number:g}; accepted: between 0 and 1", field=field)
    return Aim(kinds[name], value, confidence)  # type: ignore[arg-type]


def _questions(prompts: str, count: int | None, family_field: str | None) -> tuple[list[Question], Grade]:
    if count is not None and count < 1:
        raise ConfigError(f"--n is {count}; accepted: 1 or more", field="n")
    if prompts == TINY:
        from glimprouter.evaluate.suites.drawing import draw
        from glimprouter.evaluate.suites.tiny import score

        problems = {one.id: one for one in draw("calibrate", count or TINY_QUESTIONS)}
        questions = [Question(one.id, one.question, one.answer, one.family) for one in problems.values()]
        return questions, lambda question, text: score(problems[question], extract(text)) >= 1.0
    questions = read_questions(Path(prompts), family_field=family_field)[:count]
    gold = {one.id: one.answer for one in questions}

    def grade(question: str, text: str) -> bool | None:
        answer = gold[question]
        return None if answer is None else is_right(extract(text), answer)

    return questions, grade


async def _run(wish: _Wish, console: Console) -> tuple[Result, dict[str, Result], tuple[Model, Model]]:
    config = wish.config
    async with open_pair(
        config.small, config.large, names=config.models, speculate=config.speculate, parallel=wish.parallel
    ) as pair:
        warn(pair)
        models = (await fingerprint(pair.small), await fingerprint(pair.large))
        store = AnswerStore(wish.out, _card(wish, models), wish.grade)
        with Progress(console=console, disable=not console.is_terminal) as bars:
            calibration = _calibration(wish, pair, store, bars)
            result = await calibration.result(wish.aim, collect_large=wish.collect)
            names = sorted({one.family for one in wish.questions if one.family}) if wish.by_family else []
            families = {name: await calibration.result(wish.aim, family=name) for name in names}
    return result, families, models


def _calibration(wish: _Wish, pair: Pair, store: AnswerStore, bars: Progress) -> Calibration:
    shown: dict[str, TaskID] = {}

    def progress(label: str, done: int, total: int) -> None:
        if label not in shown:
            shown[label] = bars.add_task(label, total=total)
        bars.update(shown[label], completed=done, total=total)

    return Calibration(
        pair.small,
        pair.large,
        wish.questions,
        store,
        routing=wish.config.routing,
        sampling=wish.config.sampling,
        signal=wish.signal,
        prices=wish.prices,
        parallel=wish.parallel,
        progress=progress,
    )


def _card(wish: _Wish, models: tuple[Model, Model]) -> dict[str, Any]:
    """What must be the same for a file of answers to be gone on with."""
    routing = dataclasses.replace(wish.config.routing, threshold=None, signal=None)
    names = [model.name for model in models]
    texts = [one.text for one in wish.questions]
    return {"models": names, "routing": routing, "sampling": wish.config.sampling, "questions": texts} | {
        "signal": wish.signal
    }


def _print(result: Result, families: dict[str, Result], console: Console) -> None:
    known, chosen = result.calibrated, result.chosen
    table = Table(title=f"{result.points[0].questions} questions, wanted: {result.aim}", title_justify="left")
    for name in (
        f"threshold of {known.signal}",
        "steps by large",
        "tokens by large",
        "accuracy",
        "latency",
        "cost",
        "",
    ):
        table.add_column(name, justify="right" if name else "left")
    for point in result.points:
        threshold = f"{point.threshold:g}" if math.isfinite(point.threshold) else "small alone"
        estimates = (point.step_share, point.token_share, point.accuracy, point.latency_ratio, point.cost_ratio)
        table.add_row(threshold, *map(_shown, estimates), "chosen" if point is chosen else "")
    console.print(table)
    if result.tested:
        console.print(_tested(result))
    if not result.settled:
        console.print(
            "No threshold gives what is wanted: the figure jumps past it, for many steps have the same signal."
        )
    for name, one in families.items():
        got = "none can be promised" if one.chosen is None else f"threshold {one.chosen.threshold:g}, steps by large "
        console.print(f"{name}: {got}{'' if one.chosen is None else _shown(one.chosen.step_share)}")


def _tested(result: Result) -> Table:
    """The promise, threshold by threshold from the safest; what more data would do where they were too few."""
    first = result.tested[0].seen
    verdict = "nothing can be promised" if result.chosen is None else f"promised from {result.chosen.threshold:g} down"
    table = Table(title=f"{first.questions} held-out questions, {result.aim}: {verdict}", title_justify="left")
    for name in ("threshold", "only large right", "only routed right", "loss at most", ""):
        table.add_column(name, justify="right" if name else "left")
    for one in result.tested:
        needed = one.questions_needed
        more = f"would take about {needed} held-out questions" if needed else "more questions would not help"
        if needed and needed <= one.seen.questions:
            more = "a safer one did not pass"
        table.add_row(
            f"{one.threshold:g}", str(one.seen.worse), str(one.seen.better), f"{one.loss_at_most:.3f}",
            "passed" if one.passed else more,
        )  # fmt: skip
    return table


def _shown(one: Estimate) -> str:
    if math.isnan(one.value):
        return ""
    return f"{one.value:.2f}" if math.isnan(one.low) else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
