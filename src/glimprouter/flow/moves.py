"""What a policy may ask for and how it decides. A policy does no I/O: it yields moves and returns a verdict.

glimpse = yield from probe()            the first token of the next step, as a model sees it
step = yield from draft("small")        the next step written on trial; nobody sees it before the verdict
grade = yield from score(step)          0 to 9 from a judge, with one token
chosen = yield from choose(drafts)      which of several drafts a judge finds best, with one token
value = yield from reward(step)         what a reward model gives for it
return Keep(step)                       the draft stands, token for token
return Write("large")                   somebody writes the step; drafts are thrown away
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from glimprouter.config import Side
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.judging import Choice, Grade
from glimprouter.flow.trace import Trace
from glimprouter.flow.until import BOUNDARY, Until


@dataclass(frozen=True, slots=True)
class Probe:
    """Look at the first visible token of the next step as `who` sees it, and at the `tokens` - 1 after it.

    Free if `who` then writes the step: what was read is its beginning.
    """

    who: Side = "small"
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """Have `who` write the next step on trial. A second draft by the same model is drawn with another seed."""

    who: Side = "small"
    until: Until = BOUNDARY


@dataclass(frozen=True, slots=True)
class Score:
    """Have `judge` grade a draft from 0 to 9, with one token. `request` "": in the words the judge knows."""

    draft: Drafted
    judge: Side = "large"
    request: str = ""


@dataclass(frozen=True, slots=True)
class Choose:
    """Have `judge` pick one of several drafts, with one token. `request` "": in the words the judge knows."""

    drafts: tuple[Drafted, ...]
    judge: Side = "large"
    request: str = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """Ask the reward model what a draft is worth, from 0 to 1."""

    draft: Drafted


@dataclass(frozen=True, slots=True)
class Write:
    """Verdict: `who` writes the step, to its boundary or to what `until` says, whichever comes first."""

    who: Side
    until: Until = BOUNDARY


@dataclass(frozen=True, slots=True)
class Keep:
    """Verdict: this draft is the step, exactly as it was drawn."""

    draft: Drafted


Move = Probe | Draft | Score | Choose | Reward
Verdict = Write | Keep
Plan = Generator[Move, Any, Verdict]


class StepPolicy(Protocol):
    """Says who writes the next step, given everything written so far. Deterministic given the trace."""

    @property
    def authors(self) -> Collection[Side]:
        """The models it may let write."""
        ...

    def plan(self, trace: Trace) -> Plan: ...

    def describe(self) -> str:
        """Name and parameters, as the trace records them."""
        ...


def probe(who: Side = "small", tokens: int = 1) -> Generator[Move, Any, Glimpse]:
    glimpse: Glimpse = yield Probe(who, tokens)
    return glimpse


def draft(who: Side = "small", until: Until = BOUNDARY) -> Generator[Move, Any, Drafted]:
    drafted: Drafted = yield Draft(who, until)
    return drafted


def score(step: Drafted, judge: Side = "large", request: str = "") -> Generator[Move, Any, Grade]:
    grade: Grade = yield Score(step, judge, request)
    return grade


def choose(drafts: Sequence[Drafted], judge: Side = "large", request: str = "") -> Generator[Move, Any, Choice]:
    choice: Choice = yield Choose(tuple(drafts), judge, request)
    return choice


def reward(step: Drafted) -> Generator[Move, Any, float]:
    value: float = yield Reward(step)
    return value
