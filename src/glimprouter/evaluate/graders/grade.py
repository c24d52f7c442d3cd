"""What a grader says of an answer. It never guesses: where nothing is stated, `extracted` is None."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from glimprouter.evaluate.suites.suite import Problem


@dataclass(frozen=True, slots=True)
class Grade:
    """`extracted` is what was graded, None where nothing could be; `reason` says why an answer is not right."""

    correct: bool
    extracted: str | None
    reason: str = ""


NOTHING = Grade(False, None, "nothing extractable")


class Grader(Protocol):
    """Made once a run; may hold a process of its own until `close`."""

    def grade(self, problem: Problem, answer: str) -> Grade: ...

    def close(self) -> None: ...
