"""A whole calibration: small alone, large alone where needed, then thresholds with routing on, until one settles."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

from glimprouter.calibrate.answers import Answer, AnswerStore
from glimprouter.calibrate.curve import Point, Prices, falling, point_of
from glimprouter.calibrate.prompts import Question
from glimprouter.calibrate.risk import Paired, certified, paired, questions_needed, upper_loss
from glimprouter.calibrate.search import Search, threshold_at
from glimprouter.config import Routing, Sampling
from glimprouter.errors import ConfigError
from glimprouter.flow.engine import Engine
from glimprouter.flow.prior import Calibrated
from glimprouter.flow.quantiles import grid_of
from glimprouter.flow.request import ask
from glimprouter.flow.signals import CLASS_ENTROPY, ENTROPY, ClassScale, Signal, class_scale, signal_named
from glimprouter.router import Router

Kind = Literal["step_share", "token_share", "latency_ratio", "cost_ratio", "accuracy"]

CURVE_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
RISK_SHARES = (0.95, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Shares of steps, as small alone predicts them, at which thresholds are run; the risk's from the safest on."""

NEVER = 100.0
"""A threshold that no signal reaches."""

Progress = Callable[[str, int, int], None]
"""Told the run, how many of its answers there are, and of how many."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a threshold is wanted for. `value`: a share, a ratio to large alone, or the accuracy that may be lost."""

    kind: Kind
    value: float
    confidence: float = 0.9

    @property
    def needs_large(self) -> bool:
        return self.kind in ("latency_ratio", "cost_ratio", "accuracy")

    def __str__(self) -> str:
        if self.kind == "accuracy":
            return f"accuracy within {self.value:g} of large alone, confidence {self.confidence:g}"
        return f"{self.kind.replace('_', ' ')} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Tested:
    """A threshold on the questions that were held out for the test."""

    threshold: float
    seen: Paired
    loss_at_most: float
    passed: bool
    questions_needed: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """`chosen` is None where no threshold could be promised. `settled`: False where the figure jumps past the aim."""

    aim: Aim
    calibrated: Calibrated
    points: tuple[Point, ...]
    chosen: Point | None
    settled: bool
    tested: tuple[Tested, ...] = ()


class Calibration:
    """Runs of one pair on some questions. What `store` has already is not asked again."""

    def __init__(
        self,
        small: Engine,
        large: Engine,
        questions: Sequence[Question],
        store: AnswerStore,
        *,
        routing: Routing,
        sampling: Sampling,
        signal: str = ENTROPY.name,
        prices: Prices | None = None,
        parallel: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._engines = (small, large)
        self._questions = questions
        self._store = store
        self._routing = replace(routing, policy="glimpse", threshold=None, signal=None, params={}, answer_by="large")
        self._sampling = sampling
        self._name = signal
        self._prices = prices or Prices()
        self._parallel = parallel
        self._progress = progress
        self._signal: Signal | None = None
        self._scale: ClassScale | None = None
        self._thresholds: set[float] = set()

    async def result(
        self, aim: Aim, *, family: str | None = None, collect_large: bool = False, whole_curve: bool = True
    ) -> Result:
        """The threshold for an aim, on all questions or on those of a family; the curve around it, unless it is not
        wanted. Raises EngineError, and ConfigError for an aim at accuracy without answers."""
        questions = [one for one in self._questions if family in (None, one.family)]
        if aim.kind == "accuracy" and not all(one.answer for one in questions):
            raise ConfigError(
                "a margin of accuracy needs an answer to every question; give them in the file, or --target-share",
                field="margin",
            )
        none = await self._small_alone(questions)
        large = []
        if aim.needs_large or collect_large:
            large = await self._run("large", replace(self._routing, policy="large"), questions)
        if aim.kind == "accuracy":
            return await self._for_accuracy(aim, questions)
        values = self.values(none)
        if family is None and whole_curve:
            for share in CURVE_SHARES:
                await self._at(threshold_at(values, share), questions)
        figure = self._figure(aim, large)
        search = Search(aim.value, figure(none), at_most=aim.kind.endswith("ratio"))
        search.take(math.inf, figure(none), values)
        for threshold in sorted(self._thresholds):
            there = self._store.of(self._label(threshold), [one.id for one in questions])
            if len(there) == len(questions):
                search.take(threshold, figure(there), self.values(there))
        while (threshold := search.next_threshold()) is not None:  # type: ignore[assignment]
            answers = await self._at(threshold, questions)
            search.take(threshold, figure(answers), self.values(answers))
        nearest = search.nearest()
        return self._result(aim, questions, nearest, settled=search.settled)

    async def share_at(self, threshold: float, questions: Sequence[Question]) -> Point:
        """What a threshold gives on some questions."""
        return point_of(threshold, await self._at(threshold, questions), [], self._prices)

    async def grid(self, questions: Sequence[Question], shares: Sequence[float]) -> list[float]:
        """Rising thresholds that small alone predicts to give these shares of steps."""
        values = self.values(await self._small_alone(questions))
        return sorted({threshold_at(values, share) for share in shares})

    async def right_of(self, threshold: float | None, questions: Sequence[Question]) -> list[bool]:
        """Which questions are answered right at a threshold; None: by large alone."""
        if threshold is None:
            answers = await self._run("large", replace(self._routing, policy="large"), questions)
        else:
            answers = await self._at(threshold, questions)
        return [bool(one.right) for one in answers]

    def values(self, answers: Sequence[Answer]) -> list[float]:
        """The signal of every step that was glimpsed."""
        assert self._signal is not None, "small alone is run first"
        measure = self._signal.measure
        return [measure(step.glimpse) for one in answers for step in one.steps if step.glimpse is not None]

    async def _small_alone(self, questions: Sequence[Question]) -> list[Answer]:
        """The zero point. From it come the classes' quantiles, which one of the signals is measured on."""
        name = ENTROPY.name if self._name == CLASS_ENTROPY else self._name
        answers = await self._run(
            "small", replace(self._routing, signal=name, threshold=NEVER), questions, Calibrated(NEVER, name)
        )
        if self._signal is None:
            glimpses = [step.glimpse for one in answers for step in one.steps if step.glimpse is not None]
            self._scale = class_scale(glimpses)
            self._signal = signal_named(self._name, self._scale)
        return answers

    async def _for_accuracy(self, aim: Aim, questions: Sequence[Question]) -> Result:
        """Thresholds from the signals of one half of the questions, tested on the other."""
        half, test = dealt(questions)
        grid = await self.grid(half, RISK_SHARES)
        large = await self.right_of(None, test)
        seen = [paired(large, await self.right_of(threshold, test)) for threshold in grid]
        for threshold in grid:
            await self._at(threshold, half)  # for the curve, which is of all questions
        passed = certified(seen, aim.value, aim.confidence)
        tested = tuple(
            Tested(
                threshold,
                one,
                upper_loss(one, 1.0 - aim.confidence),
                place < passed,
                None if place < passed else questions_needed(one, aim.value, aim.confidence),
            )
            for place, (threshold, one) in enumerate(zip(grid, seen, strict=True))
        )
        return self._result(aim, questions, grid[passed - 1] if passed else None, tested=tested)

    def _result(
        self,
        aim: Aim,
        questions: Sequence[Question],
        threshold: float | None,
        *,
        settled: bool = True,
        tested: tuple[Tested, ...] = (),
    ) -> Result:
        ids = [one.id for one in questions]
        large = self._store.of("large", ids)
        runs = [(math.inf, "small"), *((value, self._label(value)) for value in self._thresholds)]
        measured = [(value, self._store.of(label, ids)) for value, label in runs]
        points = [
            point_of(value, answers, large if len(large) == len(ids) else [], self._prices)
            for value, answers in measured
            if len(answers) == len(ids)
        ]
        chosen = next((point for point in points if point.threshold == threshold), None)
        routed = next((answers for value, answers in measured if value == threshold), measured[0][1])
        calibrated = Calibrated(
            threshold if threshold is not None else math.nan,
            self._name,
            grid_of(self.values(routed)),
            statistics.fmean(len(one.steps) for one in routed),
            self._scale if self._name == CLASS_ENTROPY else None,
        )
        return Result(aim, calibrated, tuple(falling(points)), chosen, settled, tested)

    def _figure(self, aim: Aim, large: Sequence[Answer]) -> Callable[[Sequence[Answer]], float]:
        def total(of: Callable[[Answer], float], answers: Sequence[Answer]) -> float:
            return math.fsum(map(of, answers))

        match aim.kind:
            case "step_share":
                return lambda answers: total(_large_steps, answers) / max(1, total(_steps, answers))
            case "token_share":
                return lambda answers: total(_large_tokens, answers) / max(1, total(_tokens, answers))
            case "latency_ratio":
                return lambda answers: total(_wall_ms, answers) / total(_wall_ms, large)
            case _:
                return lambda answers: total(self._prices.cost, answers) / total(self._prices.cost, large)

    def _label(self, threshold: float) -> str:
        return f"{self._name}@{threshold:g}"

    async def _at(self, threshold: float, questions: Sequence[Question]) -> list[Answer]:
        self._thresholds.add(threshold)
        known = Calibrated(threshold, self._name, scale=self._scale)
        return await self._run(self._label(threshold), self._routing, questions, known)

    async def _run(
        self, label: str, routing: Routing, questions: Sequence[Question], known: Calibrated | None = None
    ) -> list[Answer]:
        """Every question that the run has no answer to yet; at most `parallel` at once."""
        left = [one for one in questions if self._store.get(label, one.id) is None]
        done = len(questions) - len(left)
        router, places = Router(*self._engines, calibrated=known), asyncio.Semaphore(self._parallel)

        async def answer(question: Question) -> None:
            nonlocal done
            async with places:
                sampling = replace(self._sampling, seed=_seed(self._sampling.seed, question.id))
                trace = await router.answer(ask(question.text, routing=routing, sampling=sampling))
            self._store.add(label, question.id, trace)
            done += 1
            if self._progress:
                self._progress(label, done, len(questions))

        tasks = [asyncio.ensure_future(answer(question)) for question in left]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._store.of(label, [one.id for one in questions])


def dealt(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Two halves, dealt by a hash of the text: the first names thresholds, the second tests them."""
    first: list[Question] = []
    second: list[Question] = []
    for one in questions:
        (first if blake2b(one.text.encode(), digest_size=1).digest()[0] & 1 else second).append(one)
    return (first, second) if first and second else (list(questions), list(questions))


def _seed(seed: int, question: str) -> int:
    """The same for all runs: what is not routed differently is not drawn differently."""
    return int.from_bytes(blake2b(f"{seed}/{question}".encode(), digest_size=4).digest(), "big")


def _large_steps(one: Answer) -> float:
    return one.large_steps


def _steps(one: Answer) -> float:
    return len(one.steps)


def _large_tokens(one: Answer) -> float:
    return one.large_thought_tokens


def _tokens(one: Answer) -> float:
    return one.thought_tokens


def _wall_ms(one: Answer) -> float:
    return one.wall_ms
