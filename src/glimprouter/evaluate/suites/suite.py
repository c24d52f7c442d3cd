"""What a suite is: questions with known answers, where they come from, how they are asked, who grades them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from glimprouter.evaluate.graders.grade import Grader

Split = Literal["train", "calibrate", "report"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question as it is asked, with its gold answer; `entry` is the source's own record."""

    id: str
    family: str
    question: str
    answer: str
    entry: Mapping[str, Any]


class Suite(Protocol):
    """`source` and `revision` name the data; `splits` are those it has; `prompt` is what a question is asked with."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def splits(self) -> tuple[Split, ...]: ...

    def problems(self, split: Split, count: int | None) -> list[Problem]:
        """`count` distinct questions of a split, or all; a larger count only adds. ConfigError for missing data."""
        ...

    def grader(self) -> Grader:
        """A new one. Raises ConfigError for what it needs and does not find."""
        ...
