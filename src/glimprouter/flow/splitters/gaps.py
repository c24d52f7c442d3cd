"""Splitters that cut between sentences or words: where prose has a gap, a rule says whether the step ends in it.

A step ends before the white space of a gap, and the next token with visible text is the first of the next step. What
comes behind a gap is looked at without being taken, so nothing that was shown is ever withdrawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from glimprouter.flow.splitters.base import StepSplitter
from glimprouter.flow.splitters.structure import Structure
from glimprouter.flow.steps import Mark

_DELIMITER_ROW = re.compile(r":?-")


@dataclass(frozen=True, slots=True)
class Gap:
    """`before` ends in visible text, `body` begins with it; `whole`: no more of `body` will be seen."""

    before: str
    space: str
    body: str
    whole: bool


class Rule(Protocol):
    """Says which gaps end a step. A function of the text alone, so that it does not matter how that is cut up."""

    name: str
    look_ahead_characters: int
    window_characters: int

    def may_end(self, before: str, space: str) -> bool:
        """Whether it is worth looking ahead; `space` is the white space seen so far."""
        ...

    def ends(self, gap: Gap) -> bool | None:
        """None: more of the body must be seen. Never None where the gap is whole."""
        ...


class GapSplitter(StepSplitter):
    """Keeps the last characters of the thought and its structure, and asks a rule."""

    __slots__ = ("_recent", "_rule", "_structure", "look_ahead_characters")

    def __init__(self, rule: Rule, *, close_tag: str, min_step_tokens: int, max_step_tokens: int) -> None:
        super().__init__(close_tag=close_tag, min_step_tokens=min_step_tokens, max_step_tokens=max_step_tokens)
        self._rule = rule
        self._structure = Structure()
        self._recent = ""
        self.look_ahead_characters = max(rule.look_ahead_characters, len(close_tag) + 4)

    def describe(self) -> str:
        return self._rule.name

    def ahead(self, text: str, *, last: bool) -> Mark:
        return self._judge(text, last=last)

    def _read(self, text: str) -> None:
        self._structure.read(text)
        self._has_visible |= not text.isspace()
        self._recent += text
        if len(self._recent) > 2 * self._rule.window_characters:
            self._recent = self._recent[-self._rule.window_characters :]

    def _end_token(self) -> Mark:
        complete = self._complete
        mark = super()._end_token()
        may = complete and self._has_visible and self._tokens >= self._min_tokens and not self._structure.is_open
        return self._judge("", last=False) if mark is Mark.OPEN and may else mark

    def _judge(self, text: str, *, last: bool) -> Mark:
        window = self._recent[-self._rule.window_characters :]
        before = window.rstrip()
        space = window[len(before) :]
        if not before or not self._rule.may_end(before, space):
            return Mark.OPEN
        text, whole = text[: self.look_ahead_characters], last or len(text) >= self.look_ahead_characters
        body = text.lstrip()
        ends = self._ends(Gap(before, space + text[: len(text) - len(body)], body, whole))
        if ends is None:
            return Mark.PENDING
        return self._cut(Mark.BOUNDARY) if ends else Mark.OPEN

    def _ends(self, gap: Gap) -> bool | None:
        tag = self._close_tag
        if not gap.body or (tag.startswith(gap.body) and gap.body != tag):
            return False if gap.whole else None
        if gap.body.startswith(tag) or ("\n" in gap.space and _goes_on_as_table(gap)):
            return False
        return self._rule.ends(gap)


def _goes_on_as_table(gap: Gap) -> bool:
    line = gap.before.rpartition("\n")[2]
    return "|" in line and (gap.body[0] == "|" or _DELIMITER_ROW.match(gap.body) is not None)
