"""Do calibrated thresholds hold on other questions? And how far does a threshold miss that is copied from another pair?

For each small model (the pair's own, and the weaker one that ships) and each temperature: thresholds for shares of
steps from `--questions` of the calibrate split; what they give on `--held-out` of the report split. The copied
threshold is the own model's, given to the weaker one. `--families`: the same per family, each calibrated on its own.
`--risk N` resamples N calibrations with a margin of accuracy from the answers of one run, and counts broken promises.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from typing import Any

from benchmarks.report import key_values, save, table
from glimprouter.calibrate.answers import AnswerStore
from glimprouter.calibrate.job import RISK_SHARES, Aim, Calibration
from glimprouter.calibrate.prompts import Question
from glimprouter.calibrate.risk import certified, paired
from glimprouter.config import Routing, Sampling
from glimprouter.evaluate.graders.extraction import extract
from glimprouter.evaluate.suites.drawing import distinct, draw
from glimprouter.evaluate.suites.suite import Problem, Split
from glimprouter.evaluate.suites.tiny import FAMILIES, problems, score
from glimprouter.flow.engine import Engine
from glimprouter.pair import TINY_LARGE, TINY_SMALL, TINY_WEAK, Pair, open_pair

MODELS = (TINY_SMALL, TINY_WEAK)
MARGIN, CONFIDENCE = 0.05, 0.9


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.3, 0.6, 1.0])
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--families", action="store_true")
    parser.add_argument("--risk", type=int, default=0, metavar="N")
    parser.add_argument("--no-save", action="store_true")
    return parser.parse_args()


class Bench:
    """One small model at one temperature: a calibration, and questions that it never saw."""

    def __init__(self, pair: Pair, temperature: float, asked: argparse.Namespace) -> None:
        self._engines: tuple[Engine, Engine] = (pair.small, pair.large)
        self._sampling = Sampling(temperature=temperature)
        self._parallel = asked.parallel

    def job(self, chosen: list[Problem]) -> tuple[Calibration, list[Question]]:
        known = {one.id: one for one in chosen}
        questions = [Question(one.id, one.question, one.answer, one.family) for one in chosen]
        store = AnswerStore(None, {}, lambda question, text: score(known[question], extract(text)) >= 1.0)
        job = Calibration(
            *self._engines, questions, store, routing=Routing(), sampling=self._sampling, parallel=self._parallel
        )
        return job, questions

    async def cells(self, seen: list[Problem], unseen: list[Problem], shares: list[float]) -> list[dict[str, Any]]:
        """Target share, threshold, share on the questions seen and on the others."""
        calibration, _ = self.job(seen)
        check, questions = self.job(unseen)
        cells = []
        for share in shares:
            result = await calibration.result(Aim("step_share", share), whole_curve=False)
            assert result.chosen is not None
            held = (await check.share_at(result.chosen.threshold, questions)).step_share
            cells.append(
                {
                    "target": share,
                    "threshold": result.chosen.threshold,
                    "calibrated": result.chosen.step_share.value,
                    "held_out": held.value,
                    "low": held.low,
                    "high": held.high,
                    "error": held.value - share,
                }
            )
        return cells

    async def copied(self, unseen: list[Problem], thresholds: dict[float, float]) -> list[dict[str, Any]]:
        """Thresholds of another pair, by target share, on these questions."""
        check, questions = self.job(unseen)
        shares = {share: await check.share_at(threshold, questions) for share, threshold in thresholds.items()}
        return [
            {"target": share, "threshold": thresholds[share], "held_out": point.step_share.value}
            | {"error": point.step_share.value - share}
            for share, point in shares.items()
        ]

    async def broken_promises(self, pool: list[Problem], resamples: int) -> dict[str, Any]:
        """Promises made on half of the pool, drawn anew each time, and checked against all of it.

        The whole pool stands for the truth, so a draw from it (with replacement) is a calibration on fresh questions.
        """
        calibration, questions = self.job(pool)
        grid = await calibration.grid(questions, RISK_SHARES)
        large = await calibration.right_of(None, questions)
        routed = [await calibration.right_of(threshold, questions) for threshold in grid]
        truth = [paired(large, one).loss for one in routed]
        rng, broken, promised = random.Random(0), 0, 0
        for _ in range(resamples):
            drawn = rng.choices(range(len(questions)), k=len(questions) // 2)
            tests = [paired([large[i] for i in drawn], [one[i] for i in drawn]) for one in routed]
            passed = certified(tests, MARGIN, CONFIDENCE)
            promised += passed > 0
            broken += any(loss > MARGIN for loss in truth[:passed])
        return {"resamples": resamples, "promised": promised, "broken": broken, "allowed": 1 - CONFIDENCE} | {
            "true_losses": dict(zip(map(str, grid), truth, strict=True))
        }


def of_family(family: str, split: Split, count: int) -> list[Problem]:
    taken: list[Problem] = []
    for one in distinct(problems(family, split)):
        if len(taken) == count:
            break
        taken.append(one)
    return taken


def shown(title: str, cells: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    print(table(list(cells[0]), [list(cell.values()) for cell in cells]), flush=True)


async def main(asked: argparse.Namespace) -> None:
    seen, unseen = draw("calibrate", asked.questions), draw("report", asked.held_out)
    figures: dict[str, Any] = {"questions": len(seen), "held_out": len(unseen), "cells": [], "copied": []}
    own: dict[tuple[float, float], float] = {}
    for model in MODELS:
        async with open_pair(model, TINY_LARGE, parallel=asked.parallel) as pair:
            for temperature in asked.temperatures:
                bench, about = Bench(pair, temperature, asked), {"small": model, "temperature": temperature}
                cells = await bench.cells(seen, unseen, asked.shares)
                shown(f"{model}, temperature {temperature:g}", cells)
                figures["cells"] += [about | cell for cell in cells]
                if model == TINY_SMALL:
                    own |= {(temperature, cell["target"]): cell["threshold"] for cell in cells}
                else:
                    copied = await bench.copied(unseen, {share: own[temperature, share] for share in asked.shares})
                    shown(f"{model}, temperature {temperature:g}, thresholds of {TINY_SMALL}", copied)
                    figures["copied"] += [about | cell for cell in copied]
            if asked.families:
                figures.setdefault("families", [])
                for family in FAMILIES:
                    few, many = (
                        of_family(family, "calibrate", asked.questions),
                        of_family(family, "report", asked.held_out),
                    )
                    cells = await Bench(pair, 0.6, asked).cells(few, many, asked.shares)
                    shown(f"{model}, {family}: {len(few)} questions, {len(many)} held out", cells)
                    figures["families"] += [
                        {"small": model, "family": family, "questions": len(few)} | c for c in cells
                    ]
            if asked.risk and model == TINY_SMALL:
                figures["risk"] = await Bench(pair, 0.6, asked).broken_promises(unseen, asked.risk)
                print(f"\nrisk: {figures['risk']}")
    errors = [abs(cell["error"]) for cell in figures["cells"]]
    figures["within_3_points"] = sum(error <= 0.03 for error in errors) / len(errors)
    figures["worst_share_error"] = max(errors)
    figures["copied_threshold_error"] = max(abs(cell["error"]) for cell in figures["copied"])
    if not asked.no_save:
        save("calibration", figures)
    print(f"\nwithin 3 points: {figures['within_3_points']:.2f} of {len(errors)} cells")
    print(
        key_values(
            worst_share_error=figures["worst_share_error"], copied_threshold_error=figures["copied_threshold_error"]
        )
    )


if __name__ == "__main__":
    asyncio.run(main(parsed()))
