"""What the router yields while an answer is written, and how text is held back until it is known to be text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from glimprouter.config import Side
from glimprouter.flow.trace import Step, Trace


@dataclass(frozen=True, slots=True)
class Started:
    """The answer begins; the trace grows from here on and is whole once `Finished` has come."""

    trace: Trace


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A verdict has fallen: `step.author` writes the next step. Its glimpse, if one was taken, is in it."""

    step: Step


class Text(NamedTuple):
    """Text as it is written, tags apart. Joined over the thought it is `trace.thought`, newlines at its ends aside."""

    author: Side
    part: Literal["thought", "answer"]
    text: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    step: Step


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing follows. Where an engine failed, `trace.error` says how and the trace holds what was written."""

    trace: Trace


Event = Started | StepStarted | Text | StepFinished | Finished


class HoldBack:
    """Passes text up to the first of some strings to be complete, keeping back what may be the beginning of one."""

    def __init__(self, *strings: str) -> None:
        self._strings = strings
        self._begins = {string[0] for string in strings}
        self._kept = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Text that is safe to show. Once a string is complete, `hit` is set and nothing more passes."""
        if self.hit:
            return ""
        if not self._kept and not any(begin in text for begin in self._begins):
            return text
        text = self._kept + text
        # The first to be complete, as a reader of single characters would find it, however the text arrives.
        places = [(place + len(string), place) for string in self._strings if (place := text.find(string)) >= 0]
        if places:
            self.hit, self._kept = True, ""
            return text[: min(places)[1]]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    @property
    def holds(self) -> bool:
        """Whether something is kept back."""
        return bool(self._kept)

    def flush(self) -> str:
        """What was kept back in vain."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` with which `string` begins, shorter than `string`."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
