"""A whole evaluation: pilot, plan, interleaved run; or a calibration; or a collection. Writes the run folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from glimprouter.errors import ConfigError
from glimprouter.evaluate.calibration import (
    Calibration,
    Calibrator,
    pooled_glimpses,
    step_share,
    sweep_thresholds,
    token_share,
)
from glimprouter.evaluate.collect import Collected, CollectedFile, Collector
from glimprouter.evaluate.folder import Plan, RunFolder, Settings
from glimprouter.evaluate.methods import RANDOM_POSITIONS, Method, glimpse_at, methods_of, random_at
from glimprouter.evaluate.positions import with_patterns
from glimprouter.evaluate.records import AnswerFile, Outcome
from glimprouter.evaluate.run import Runner, Slot, slots
from glimprouter.evaluate.suites.suite import Problem

PILOT_QUESTIONS = 60
"""Of the calibrate split, answered by glimpse alone: for the share that Random aims at, and for the sweep's grid."""


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """`total` answers are wanted of which `done` were there already."""

    name: str
    total: int
    done: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, or a collected thought."""

    outcome: Outcome | Collected


Progress = PhaseStarted | Answered


class Comparison:
    """Methods side by side on the report questions. `pilot` are questions of the calibrate split."""

    def __init__(
        self, runner: Runner, folder: RunFolder, settings: Settings, *, report: list[Problem], pilot: list[Problem]
    ) -> None:
        self._runner = runner
        self._folder = folder
        self._settings = settings
        self._report = report
        self._pilot = pilot

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Everything that is not in the folder yet."""
        pilot: list[Outcome] = []
        if self._needs_pilot():
            with self._folder.pilot() as kept:
                method = glimpse_at(self._settings.routing, self._settings.threshold_nats, name="glimpse")
                todo = list(slots(self._pilot, [method], samples=1, seed=self._settings.sampling.seed))
                async for event in phase("pilot", self._runner, todo, kept):
                    yield event
                pilot = [kept.outcomes[slot.key] for slot in todo]
        with self._folder.answers() as kept:
            plan = self._plan(pilot)
            self._folder.write_plan(plan)
            seed = self._settings.sampling.seed
            bare = slots(self._report, plan.methods, samples=self._settings.samples, seed=seed)
            todo = list(with_patterns(bare, pilot, seed=seed))
            async for event in phase("answers", self._runner, todo, kept):
                yield event

    def _needs_pilot(self) -> bool:
        settings = self._settings
        aims_at_share = "random" in settings.methods and settings.random_p is None
        return settings.mode == "sweep" or aims_at_share or RANDOM_POSITIONS in settings.methods

    def _plan(self, pilot: Sequence[Outcome]) -> Plan:
        """Random's probability is the pilot's share of tokens, not of steps: tokens are what is made equal."""
        settings, notes = self._settings, []
        random_p = settings.random_p
        if pilot:
            tokens, steps = token_share(pilot), step_share(pilot)
            notes.append(
                f"pilot of {len(pilot)} calibration questions: glimpse gave {tokens:.1%} of thought tokens "
                f"({steps:.1%} of steps) to the large model"
            )
            random_p = tokens if random_p is None else random_p
        rows = methods_of(
            settings.methods,
            settings.routing,
            threshold_nats=settings.threshold_nats,
            random_p=0.0 if random_p is None else random_p,
        )
        if settings.mode == "sweep":
            grid = sweep_thresholds(pooled_glimpses(pilot))
            rows += [glimpse_at(settings.routing, value) for value in grid if value != settings.threshold_nats]
        rows += [random_at(settings.routing, p) for p in settings.random_grid]
        questions = tuple(problem.id for problem in self._report)
        return Plan(methods=tuple(rows), questions=questions, notes=tuple(notes))


class CalibrationRun:
    """A threshold for a large share, from the calibrate split alone."""

    def __init__(self, runner: Runner, folder: RunFolder, settings: Settings, *, questions: list[Problem]) -> None:
        self._runner = runner
        self._folder = folder
        self._settings = settings
        self._questions = questions
        self._calibrator = Calibrator(settings.routing, settings.target_share)

    async def run(self) -> AsyncGenerator[Progress, None]:
        """One threshold after another, each on all questions, until the share has settled."""
        methods: list[Method] = []
        with self._folder.answers() as kept:
            while (method := self._calibrator.next_method()) is not None:
                methods.append(method)
                todo = list(slots(self._questions, [method], samples=1, seed=self._settings.sampling.seed))
                async for event in phase(method.name, self._runner, todo, kept):
                    yield event
                self._calibrator.take([kept.outcomes[slot.key] for slot in todo])
        questions = tuple(problem.id for problem in self._questions)
        self._folder.write_plan(Plan(methods=tuple(methods), questions=questions))

    def result(self) -> Calibration:
        return self._calibrator.result()


class Collection:
    """Thoughts in which both models were asked at every step."""

    def __init__(
        self, collector: Collector, folder: RunFolder, settings: Settings, *, questions: list[Problem]
    ) -> None:
        self._collector = collector
        self._folder = folder
        self._settings = settings
        self._questions = questions

    async def run(self) -> AsyncGenerator[Progress, None]:
        """What the folder does not hold yet."""
        samples = self._settings.samples
        self._folder.write_plan(Plan(methods=(), questions=tuple(problem.id for problem in self._questions)))
        with CollectedFile(self._folder.collected_path) as kept:
            yield PhaseStarted("thoughts", samples * len(self._questions), len(kept.keys))
            async for thought in self._collector.run(self._questions, samples, kept):
                yield Answered(thought)


def recalibrate(folder: RunFolder) -> Calibration:
    """The calibration that a finished folder holds, without engines. Raises ConfigError for an unfinished one."""
    settings, questions, outcomes = folder.card().settings, folder.plan().questions, list(folder.outcomes())
    calibrator = Calibrator(settings.routing, settings.target_share)
    while (method := calibrator.next_method()) is not None:
        answered = [outcome for outcome in outcomes if outcome.key.method == method.name]
        if len(answered) < len(questions):
            raise ConfigError(
                f"{folder.path}: the calibration is unfinished; run it again with the same --out", field="out"
            )
        calibrator.take(answered)
    return calibrator.result()


async def phase(name: str, runner: Runner, todo: Sequence[Slot], kept: AnswerFile) -> AsyncGenerator[Progress, None]:
    done = sum(slot.key in kept.outcomes for slot in todo)
    yield PhaseStarted(name, len(todo), done)
    async for outcome in runner.run(todo, kept):
        yield Answered(outcome)
