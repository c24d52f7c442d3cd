"""What a step is made of: how a token may end one, what finds such ends, and what notices that steps repeat."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Protocol


class Mark(Enum):
    """What a token did to the step it belongs to."""

    OPEN = "open"
    BOUNDARY = "boundary"
    FORCED = "forced"
    CLOSED = "closed"
    """The closing tag of the thought is complete."""
    PENDING = "pending"
    """Whether the step ends with this token depends on what comes next: look ahead, without taking it."""


class Splitter(Protocol):
    """Texts of tokens in, marks out. One object serves one thought; what a fence or formula opened stays open."""

    @property
    def look_ahead_characters(self) -> int:
        """So much text to come settles every pending mark; 0: none is ever pending."""
        ...

    @property
    def after_close(self) -> str | None:
        """What followed the closing tag inside the same token; None while the thought is open."""
        ...

    def token(self, text: str) -> Mark:
        """Take one whole token; empty text means that its character is not complete yet."""
        ...

    def ahead(self, text: str, *, last: bool) -> Mark:
        """After a pending mark: what `text`, all that is known to come, makes of it. `last`: nothing follows it."""
        ...

    def describe(self) -> str:
        """Name and number, as the trace records them."""
        ...


class LoopWatch:
    """Notices a thought that goes in circles: the same one to four steps, over and over.

    A single step counts from `repeats` times in a row, longer cycles from one time fewer (but at least two).
    """

    LONGEST_CYCLE = 4

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._recent: deque[str] = deque(maxlen=self.LONGEST_CYCLE * repeats)

    def step(self, text: str) -> int:
        """Take a finished step; the length of the cycle the thought is caught in, in steps, or 0."""
        self._recent.append(" ".join(text.split()))
        recent = list(self._recent)
        for cycle in range(1, self.LONGEST_CYCLE + 1):
            times = self._repeats if cycle == 1 else max(2, self._repeats - 1)
            if len(recent) >= cycle * times and self._circles(recent[-cycle * times :], cycle):
                return cycle
        return 0

    @staticmethod
    def _circles(steps: list[str], cycle: int) -> bool:
        return all(step == steps[place % cycle] for place, step in enumerate(steps))
