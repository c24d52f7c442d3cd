"""What calibration keeps: every answer's trace on disk, of each the few figures that thresholds are chosen by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from glimprouter.errors import ConfigError
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.trace import ModelUsage, Trace

Grade = Callable[[str, str], bool | None]
"""Whether an answer (id of the question, its text) is right; None where nobody knows."""


class Kept(msgspec.Struct, kw_only=True):
    """A line of the file: the answer to a question in one of the runs."""

    question: str
    run: str
    trace: Trace


@dataclass(frozen=True, slots=True)
class Seen:
    """A step as calibration sees it."""

    glimpse: Glimpse | None
    tokens: int
    by_large: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """`cost_tokens` of a side: (read, written), what was read from a cache not counted, what was discarded counted."""

    question: str
    right: bool | None
    steps: tuple[Seen, ...]
    wall_ms: float
    small_tokens: tuple[int, int]
    large_tokens: tuple[int, int]

    @property
    def large_steps(self) -> int:
        return sum(step.by_large for step in self.steps)

    @property
    def thought_tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def large_thought_tokens(self) -> int:
        return sum(step.tokens for step in self.steps if step.by_large)


def answer_of(question: str, trace: Trace, grade: Grade) -> Answer:
    return Answer(
        question,
        grade(question, trace.answer_text),
        tuple(Seen(step.glimpse, step.tokens, step.author == "large") for step in trace.steps),
        trace.wall_ms,
        _cost(trace.small),
        _cost(trace.large),
    )


def _cost(usage: ModelUsage) -> tuple[int, int]:
    read = usage.prompt_tokens - usage.cached_tokens + usage.warm_tokens
    return read, usage.new_tokens + usage.discarded_tokens


class AnswerStore:
    """Answers by run and question: appended to a file as they come, so that a calibration that was killed goes on.

    `card` says what is calibrated; a file with another card is refused. Without a path nothing outlives the process.
    """

    def __init__(self, path: Path | None, card: dict[str, Any], grade: Grade) -> None:
        self._path = path
        self._grade = grade
        self._answers: dict[tuple[str, str], Answer] = {}
        if path is not None:
            self._begin(path, card)

    def get(self, run: str, question: str) -> Answer | None:
        return self._answers.get((run, question))

    def add(self, run: str, question: str, trace: Trace) -> None:
        self._answers[run, question] = answer_of(question, trace, self._grade)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(Kept(question=question, run=run, trace=trace)) + b"\n")

    def of(self, run: str, questions: Sequence[str]) -> list[Answer]:
        """The run's answers to these questions, in their order; what was not answered is left out."""
        return [answer for question in questions if (answer := self.get(run, question))]

    def _begin(self, path: Path, card: dict[str, Any]) -> None:
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            *whole, _ = lines or [b""]
            if not whole:
                path.write_bytes(msgspec.json.encode({"card": card}) + b"\n")
                return
            # A process killed while it wrote leaves a line without its end.
            path.write_bytes(b"".join(line + b"\n" for line in whole))
        except OSError as error:
            raise ConfigError(
                f"--out {path}: cannot be written ({error.strerror}); give a file in a folder that is yours",
                field="out",
            ) from error
        self._read(path, card, iter(whole))

    def _read(self, path: Path, card: dict[str, Any], lines: Iterator[bytes]) -> None:
        try:
            there = msgspec.json.decode(next(lines), type=dict[str, Any]).get("card")
            if there != msgspec.json.decode(msgspec.json.encode(card)):
                raise ConfigError(
                    f"--out {path}: holds answers of another calibration (other models, questions or options); "
                    "give the options it was begun with, or another file",
                    field="out",
                )
            for line in lines:
                kept = msgspec.json.decode(line, type=Kept)
                self._answers[kept.run, kept.question] = answer_of(kept.question, kept.trace, self._grade)
        except msgspec.DecodeError as error:
            raise ConfigError(f"--out {path}: not written by this version ({error})", field="out") from error
