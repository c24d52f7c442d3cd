"""Suites from reasoning-gym: the tiny one, and any single task by its name, both without end and without a download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING

from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites import drawing
from glimprouter.evaluate.suites.suite import Problem, Split
from glimprouter.evaluate.suites.tiny import FAMILIES, split_of

if TYPE_CHECKING:
    from glimprouter.evaluate.graders.grade import Grader

TASK_QUESTIONS = 200
PREFIX = "gym:"
_SEED, _LAST = 3_000_000_000, 500_000_000


@dataclass(frozen=True, slots=True)
class TinySuite:
    name: str = "tiny"
    source: str = "reasoning-gym (six families, offline)"
    prompt: str = "{question}"
    splits: tuple[Split, ...] = ("train", "calibrate", "report")

    @property
    def revision(self) -> str:
        return _version()

    def problems(self, split: Split, count: int | None) -> list[Problem]:
        return drawing.draw(split, 100 * len(FAMILIES) if count is None else count)

    def grader(self) -> Grader:
        from glimprouter.evaluate.graders.gym import TinyGrader

        return TinyGrader()


@dataclass(frozen=True, slots=True)
class GymSuite:
    """One task with the settings it has by default."""

    task: str
    prompt: str = "{question}\n\nWrite the final answer between <answer> and </answer>."
    splits: tuple[Split, ...] = ("train", "calibrate", "report")

    @property
    def name(self) -> str:
        return PREFIX + self.task

    @property
    def source(self) -> str:
        return f"reasoning-gym, task {self.task} (offline)"

    @property
    def revision(self) -> str:
        return _version()

    def problems(self, split: Split, count: int | None) -> list[Problem]:
        drawing.require_gym()
        found = list(islice(drawing.distinct(self._stream(split)), TASK_QUESTIONS if count is None else count))
        if not found:
            raise ConfigError(f"{self.name} has no questions in the {split} split; take another task", field="suite")
        return found

    def grader(self) -> Grader:
        from glimprouter.evaluate.graders.gym import GymGrader

        return GymGrader(self.task)

    def _stream(self, split: Split) -> Iterator[Problem]:
        """Ends where a task has a few questions only, none of them of this split."""
        import reasoning_gym

        try:
            dataset = reasoning_gym.create_dataset(self.task, seed=_SEED, size=_LAST)
        except ValueError as error:
            raise ConfigError(
                f"{self.name}: reasoning-gym has no such task; its names are listed in its own documentation",
                field="suite",
            ) from error
        misses = 0
        for index in range(_LAST):
            entry = dataset[index]
            question = str(entry["question"]).strip()
            if split_of(question) == split:
                misses = 0
                asked = self.prompt.replace("{question}", question)
                yield Problem(f"{self.task}/{_SEED + index}", self.task, asked, str(entry["answer"]), entry)
            elif (misses := misses + 1) >= drawing.PATIENCE:
                return


def _version() -> str:
    try:
        return version("reasoning-gym")
    except PackageNotFoundError:
        return "not installed"
