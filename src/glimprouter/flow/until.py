"""How far a piece of writing goes: to the step's boundary, or to something inside the step."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glimprouter.flow.trace import StepEnd

_SENTENCE_END = re.compile(r"[.!?][\"')\]*]*\s*$|\n\s*$")
_OPENING_MARKS = " \t\n\"'*_#>-"


@dataclass(frozen=True, slots=True)
class Until:
    """Where to stop inside a step; a boundary, or the end of the thought, always stops as well.

    `tokens`: after so many (0: no such end). `cues`: after one of these words or phrases where a sentence opens with
    it, in any case, together with the token that shows the word to be whole. `sentence`: where a sentence ends.
    """

    tokens: int = 0
    cues: tuple[str, ...] = ()
    sentence: bool = False


BOUNDARY = Until()
"""Nothing but the step's own boundary."""


class Limit:
    """Watches one piece of writing for the end that an `Until` names."""

    def __init__(self, until: Until, *, opens: bool) -> None:
        """`opens`: the piece begins where a sentence does."""
        self._until = until
        self._cues = tuple(cue.casefold() for cue in until.cues)
        self._tokens = 0
        self._sentence = ""
        self._watches_cue = bool(self._cues) and opens

    def token(self, text: str) -> StepEnd | None:
        """Take one token; how the piece ends with it, if it does. Not inside a character (empty text)."""
        self._tokens += 1
        if not text:
            return None
        if self._cues and self._meets_cue(text):
            return "cue"
        if self._until.sentence and self._ends_sentence(text):
            return "sentence"
        return "tokens" if self._until.tokens and self._tokens >= self._until.tokens else None

    def _meets_cue(self, text: str) -> bool:
        if self._watches_cue:
            self._sentence += text
            opening = self._sentence.lstrip(_OPENING_MARKS).casefold()
            if any(opening.startswith(cue) and not opening[len(cue) :][:1].isalnum() for cue in self._whole(opening)):
                return True
            self._watches_cue = any(cue.startswith(opening[: len(cue)]) for cue in self._cues)
        if not self._watches_cue and _SENTENCE_END.search(text):
            self._sentence, self._watches_cue = "", True
        return False

    def _whole(self, opening: str) -> list[str]:
        """Cues that the sentence has gone beyond, so that a word which only begins like one is told apart."""
        return [cue for cue in self._cues if len(opening) > len(cue)]

    def _ends_sentence(self, text: str) -> bool:
        self._sentence += text
        return bool(self._sentence.strip()) and bool(_SENTENCE_END.search(text))
