"""A whole evaluation: pilot, plan, interleaved run; or a calibration. Yields its progress, writes the run folder."""

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
from glimprouter.evaluate.folder import Plan, RunFolder, Settings
from glimprouter.evaluate.methods import Method, glimpse_at, methods_of
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
    outcome: Outcome


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
            settings = self._settings
            todo = list(slots(self._report, plan.methods, samples=settings.samples, seed=settings.sampling.seed))
            async for event in phase("answers", self._runner, todo, kept):
                yield event

    def _needs_pilot(self) -> bool:
        return self._settings.mode == "sweep" or (
            "random" in self._settings.methods and self._settings.random_p is None
        )

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
