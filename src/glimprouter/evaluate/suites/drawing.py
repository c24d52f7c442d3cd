"""Which questions are asked: distinct ones of one split, spread evenly over the families, the same in every run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator

from glimprouter.errors import ConfigError
from glimprouter.evaluate.suites.suite import Problem, Split
from glimprouter.evaluate.suites.tiny import FAMILIES, problems

PATIENCE = 500
"""So many questions in a row that were all seen before: the family has no more in this split."""


def require_gym() -> None:
    """Raises ConfigError, with the line that mends it, where reasoning-gym is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ConfigError(
            "the tiny suite takes its problems from reasoning-gym, which is not installed; "
            "install it with: pip install 'glimprouter[eval]' (it needs a C compiler)",
            field="suite",
        )


def draw(split: Split, count: int) -> list[Problem]:
    """`count` distinct questions of a split, the families in turn; one that runs out leaves its part to the others.

    The choice depends on nothing but the count, and a larger count only adds questions.
    """
    if count < len(FAMILIES):
        raise ConfigError(
            f"--n is {count}; accepted: {len(FAMILIES)} or more, one for each of {', '.join(FAMILIES)}", field="n"
        )
    require_gym()
    return take_in_turn([distinct(problems(family, split)) for family in FAMILIES], count)


def distinct(stream: Iterable[Problem]) -> Iterator[Problem]:
    """The questions of a stream, each once; ends when nothing new has come for a while."""
    seen: set[str] = set()
    repeats = 0
    for problem in stream:
        repeats += 1
        if problem.question not in seen:
            seen.add(problem.question)
            repeats = 0
            yield problem
        elif repeats >= PATIENCE:
            return


def take_in_turn(supplies: list[Iterator[Problem]], count: int) -> list[Problem]:
    """`count` problems, one from each supply in turn, or as many as they have."""
    taken: list[Problem] = []
    while supplies:
        for supply in list(supplies):
            if len(taken) == count:
                return taken
            problem = next(supply, None)
            if problem is None:
                supplies.remove(supply)
            else:
                taken.append(problem)
    return taken
