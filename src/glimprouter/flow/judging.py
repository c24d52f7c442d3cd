"""Asking a model what it thinks of drafts: a grade from 0 to 9, or a choice, with one token.

The model is asked beside its writing: thought so far, end of its turn, a question as from the user, its own turn begun.
How a turn ends and begins is read off the model's own template; the words are data (models/judging.toml), for a model
that was trained to give grades must be asked in the words of its training.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from glimprouter.config import Side
from glimprouter.errors import PairError
from glimprouter.flow.engine import Engine, Token, Usage
from glimprouter.flow.prompt import ThoughtFormat
from glimprouter.flow.writer import Aside, Passage, Place, Writer

GRADES = "0123456789"
LETTERS = "ABCDEFGH"
"""By which drafts are named in a choice; there can be no more of them."""

_TOP = 20
_REPLY, _QUESTION = "(the reply)", "(the question)"


@dataclass(frozen=True, slots=True)
class Words:
    """How a model is asked. A `lead` is what its reply is begun with; `thinks`: it must shut its thought first."""

    score: str
    choice: str
    score_lead: str = ""
    choice_lead: str = ""
    thinks: bool = True


@dataclass(frozen=True, slots=True)
class Grade:
    """`likeliest` grade from 0 to 9 and the mean over all of them; `covered`: their probability among all replies.

    A judge that gives no grade at all has given 0, with nothing covered.
    """

    likeliest: int
    expected: float
    covered: float


@dataclass(frozen=True, slots=True)
class Choice:
    """`index` of the likeliest draft, None where none was named; `shares` of all of them add up to 1 (or to 0)."""

    index: int | None
    shares: tuple[float, ...]
    covered: float


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("glimprouter.models") / "judging.toml").read_text(encoding="utf-8"))


def words_of(model: str) -> Words:
    """The words a model was trained on where it is one of ours, else those that do for any."""
    table = _table()
    return Words(**table.get(PurePath(model).name.removesuffix(".gguf"), table["any"]))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Ids that stand around a question, and which ids are which reply."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    grades: Mapping[int, int]
    letters: Mapping[int, int]


class Judge:
    """One model as a judge. What is the same for all answers is asked of its engine once."""

    def __init__(self, side: Side, engine: Engine) -> None:
        self._side = side
        self._engine = engine
        self._layout: _Layout | None = None

    async def grade(self, writer: Writer, draft: Passage, *, place: Place | None, request: str, call: Usage) -> Grade:
        """Of a draft that continues the thought so far. Raises EngineError, PairError."""
        words = words_of(writer.facts.model)
        layout = await self._laid_out(writer.prompt.format, words)
        ids = await self._question(layout, request or words.score, words.score_lead)
        token = await writer.reply(Aside((draft,), ids, _TOP), place=place, call=call)
        masses = _masses(token, layout.grades, len(GRADES))
        covered = math.fsum(masses)
        if not covered:
            return Grade(0, 0.0, 0.0)
        expected = math.fsum(grade * mass for grade, mass in enumerate(masses)) / covered
        return Grade(masses.index(max(masses)), expected, min(1.0, covered))

    async def choose(
        self, writer: Writer, drafts: Sequence[str], *, place: Place | None, request: str, call: Usage
    ) -> Choice:
        """Among texts that might come next. Raises EngineError, PairError."""
        if len(drafts) > len(LETTERS):
            raise ValueError(f"a choice among {len(drafts)} drafts; at most {len(LETTERS)} have a letter")
        words = words_of(writer.facts.model)
        layout = await self._laid_out(writer.prompt.format, words)
        listed = "".join(f"\n{letter}: {text}" for letter, text in zip(LETTERS, drafts, strict=False))
        ids = await self._question(layout, (request or words.choice) + listed, words.choice_lead)
        token = await writer.reply(Aside((), ids, _TOP), place=place, call=call)
        masses = _masses(token, layout.letters, len(drafts))
        covered = math.fsum(masses)
        if not covered:
            return Choice(None, tuple(masses), 0.0)
        return Choice(masses.index(max(masses)), tuple(mass / covered for mass in masses), min(1.0, covered))

    async def _question(self, layout: _Layout, text: str, lead: str) -> tuple[int, ...]:
        """Control tokens in a draft stay text."""
        led = await self._engine.encode(lead) if lead else []
        return (*layout.before, *await self._engine.encode(text), *layout.after, *led)

    async def _laid_out(self, style: ThoughtFormat, words: Words) -> _Layout:
        if self._layout is None:
            before, after = await self._turns(style, words)
            self._layout = _Layout(
                tuple(await self._engine.encode(before, special=True)),
                tuple(await self._engine.encode(after, special=True)),
                await self._single_ids(GRADES),
                await self._single_ids(LETTERS),
            )
        return self._layout

    async def _turns(self, style: ThoughtFormat, words: Words) -> tuple[str, str]:
        """What stands between a reply and the next question, and between that and the next reply."""
        rendered = await self._engine.render(
            [
                {"role": "user", "content": "(first)"},
                {"role": "assistant", "content": _REPLY},
                {"role": "user", "content": _QUESTION},
            ]
        )
        _, reply, rest = rendered.rpartition(_REPLY)
        before, question, after = rest.partition(_QUESTION)
        if not (reply and question):
            raise PairError(
                f"--{self._side}: its chat template takes no question after a reply, so that it cannot judge drafts; "
                "use a policy that asks for no grades or choices",
                field=self._side,
            )
        if words.thinks:
            if not after.rstrip().endswith((style.open_tag, style.close_tag)):
                after += style.open_tag + style.after_open
            if not after.rstrip().endswith(style.close_tag):
                after += style.close_tag + style.after
        return before, after

    async def _single_ids(self, replies: str) -> dict[int, int]:
        """Ids of those replies that are one token, with or without a blank before, and the places of the replies."""
        places: dict[int, int] = {}
        for place, reply in enumerate(replies):
            for text in (reply, f" {reply}"):
                ids = await self._engine.encode(text)
                if len(ids) == 1:
                    places[ids[0]] = place
        return places


def _masses(token: Token | None, places: Mapping[int, int], count: int) -> list[float]:
    """The probability of each reply; all of it on the one drawn where the engine tells none."""
    masses = [0.0] * count
    if token is None:
        return masses
    for id_, logprob in dict(token.top).items() or ((token.id, 0.0),):
        place = places.get(id_)
        if place is not None and place < count:
            masses[place] += math.exp(logprob)
    return masses
