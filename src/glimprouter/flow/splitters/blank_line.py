"""`blank-line`, the default and the published rule: a step ends with the token that completes a blank line.

Blank lines inside code fences, display maths, LaTeX environments and HTML tables are not boundaries.
Needs no look-ahead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.flow.splitters.base import StepSplitter
from glimprouter.flow.steps import Mark

FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")
_INLINE_CODE = re.compile(r"`[^`]*`")
# `\\[2pt]` and `\\]` are line breaks inside a formula, not its ends.
_BLOCKS = re.compile(
    r"(?P<opens>\\begin\{[a-zA-Z]+\*?\}|(?<!\\)\\\[|(?i:<table\b))|\\end\{[a-zA-Z]+\*?\}|(?<!\\)\\\]|(?i:</table\b)"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """A mark that ends a step, with the offset in the delta at which its token ends."""

    offset: int
    mark: Mark


class BlankLineSplitter(StepSplitter):
    """Reads line by line: what a line opens or closes is known when it ends."""

    __slots__ = ("_blocks", "_dollars", "_fence", "_fence_indent", "_line")

    def __init__(self, *, close_tag: str, min_step_tokens: int, max_step_tokens: int) -> None:
        super().__init__(close_tag=close_tag, min_step_tokens=min_step_tokens, max_step_tokens=max_step_tokens)
        self._line: list[str] = []
        self._fence = ""
        self._fence_indent = 0
        self._dollars = False
        self._blocks = 0

    def describe(self) -> str:
        return "blank-line"

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

    def _read(self, text: str) -> None:
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
        fence = FENCE.match(line)
        if self._fence:
            if fence and closes_fence(self._fence, self._fence_indent, fence):
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


def closes_fence(opened: str, opened_indent: int, line: re.Match[str]) -> bool:
    """Whether a line that FENCE matches closes the fence that `opened` began."""
    indent, marker, rest = line.groups()
    return marker.startswith(opened) and not rest.strip() and len(indent) <= opened_indent + 3
