"""Where steps end: the splitter finds boundaries in text as it arrives; the loop watch notices repetition.

A step ends with the token that completes a blank line. Blank lines inside code fences, display maths, LaTeX
environments and HTML tables are not boundaries, a step under a minimum span is merged into the next, and after a
maximum a boundary is forced at a complete character. End tokens and cut streams are not the splitter's business.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")
_INLINE_CODE = re.compile(r"`[^`]*`")
# `\\[2pt]` and `\\]` are line breaks inside a formula, not its ends.
_BLOCKS = re.compile(
    r"(?P<opens>\\begin\{[a-zA-Z]+\*?\}|(?<!\\)\\\[|(?i:<table\b))|\\end\{[a-zA-Z]+\*?\}|(?<!\\)\\\]|(?i:</table\b)"
)


class Mark(Enum):
    """What a token did to the step it belongs to."""

    OPEN = "open"
    BOUNDARY = "boundary"
    FORCED = "forced"
    CLOSED = "closed"
    """The closing tag of the thought is complete."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A mark that ends a step, with the offset in the delta at which its token ends."""

    offset: int
    mark: Mark


class Splitter:
    """Text in, marks out. One object serves one thought; what a fence or formula opened stays open across steps."""

    __slots__ = (
        "_blocks", "_close_tag", "_closed", "_complete", "_dollars", "_fence", "_fence_indent", "_found",
        "_has_visible", "_line", "_max_tokens", "_min_tokens", "_tail", "_tokens", "after_close",
    )  # fmt: skip

    def __init__(self, *, close_tag: str, min_step_tokens: int, max_step_tokens: int) -> None:
        self._close_tag = close_tag
        self._min_tokens = min_step_tokens
        self._max_tokens = max_step_tokens
        self._line: list[str] = []
        self._tail = ""
        self._tokens = 0
        self._has_visible = False
        self._found = False
        self._complete = False
        self._fence = ""
        self._fence_indent = 0
        self._dollars = False
        self._blocks = 0
        self._closed = False
        self.after_close: str | None = None
        """What followed the closing tag inside the same token; None while the thought is open."""

    def token(self, text: str) -> Mark:
        """Take one whole token; empty text means that its character is not complete yet."""
        self._push(text)
        return self._end_token()

    def feed(self, delta: str, token_ends: Sequence[int]) -> list[Cut]:
        """Take text cut anyhow; `token_ends` are the offsets in `delta` at which tokens end, ascending.

        An offset given twice ends a token without text, one whose character is not complete yet.
        """
        cuts, start = [], 0
        for end in token_ends:
            self._push(delta[start:end])
            start = end
            if (mark := self._end_token()) is not Mark.OPEN:
                cuts.append(Cut(end, mark))
        self._push(delta[start:])
        return cuts

    def _push(self, text: str) -> None:
        if not text or self._closed:
            return
        self._complete = True
        if self.after_close is not None:
            self.after_close += text
            return
        tail = self._tail + text
        if self._close_tag[-1] in text and (place := tail.find(self._close_tag)) >= 0:
            self.after_close = tail[place + len(self._close_tag) :]
            return
        self._tail = tail[-len(self._close_tag) + 1 :] if len(self._close_tag) > 1 else ""
        if "\n" not in text:
            self._add_to_line(text)
            return
        *lines, last = text.split("\n")
        for piece in lines:
            self._add_to_line(piece)
            self._end_line()
        self._add_to_line(last)

    def _add_to_line(self, piece: str) -> None:
        # A line is a list of pieces until it ends: adding to a string would copy all of a long line for every token.
        self._line.append(piece)
        if piece and not piece.isspace():
            self._has_visible = True
            # Visible text behind a blank line in the same token: the first token of the next step is gone already.
            self._found = False

    def _end_line(self) -> None:
        line = "".join(self._line)
        self._line.clear()
        if line and not line.isspace():
            self._read_structure(line)
        elif self._has_visible and not (self._fence or self._dollars or self._blocks):
            self._found = True

    def _read_structure(self, line: str) -> None:
        fence = _FENCE.match(line)
        if self._fence:
            if fence and self._closes(*fence.groups()):
                self._fence = ""
            return
        if fence and not (fence[2][0] == "`" and "`" in fence[3]):
            self._fence, self._fence_indent = fence[2], len(fence[1])
            return
        line = _INLINE_CODE.sub("", line)
        if line.count("$$") % 2:
            self._dollars = not self._dollars
        for match in _BLOCKS.finditer(line):
            self._blocks = max(0, self._blocks + (1 if match["opens"] else -1))

    def _closes(self, indent: str, marker: str, rest: str) -> bool:
        return marker.startswith(self._fence) and not rest.strip() and len(indent) <= self._fence_indent + 3

    def _end_token(self) -> Mark:
        self._tokens += 1
        found, self._found = self._found, False
        complete, self._complete = self._complete, False
        if self.after_close is not None:
            self._closed = True
            return Mark.CLOSED
        if found and self._tokens >= self._min_tokens:
            return self._cut(Mark.BOUNDARY)
        if complete and self._tokens >= self._max_tokens and not self._may_be_closing():
            return self._cut(Mark.FORCED)
        return Mark.OPEN

    def _may_be_closing(self) -> bool:
        """Whether the text ends in what may become the closing tag; not for longer than the tag can take."""
        tag = self._close_tag
        begun = any(self._tail.endswith(tag[:length]) for length in range(1, len(tag)))
        return begun and self._tokens < self._max_tokens + len(tag)

    def _cut(self, mark: Mark) -> Mark:
        self._tokens = 0
        self._has_visible = False
        return mark


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
