"""Where prose is: what of a stream is code, maths or a table, known at every character and not only at line ends.

Blocks (fences, `$$`, `\\[`, LaTeX environments, HTML tables) stay open until they are closed. What is written within
a line (`` `code` ``, `$maths$`, `\\(maths\\)`) is given up at a blank line or after INLINE_CHARACTERS: a lone back-tick
or dollar must not end routing.
"""

from __future__ import annotations

import re

from glimprouter.flow.splitters.blank_line import closes_fence

INLINE_CHARACTERS = 400
_LINE_CHARACTERS = 400
_PRICE_CHARACTERS = 40

_FENCE = re.compile(r"((?:[ \t]*(?:[-*+>]|\d+[.)])[ \t]+)?[ \t]*)(`{3,}|~{3,})(.*)")
_EVENT = re.compile(r"\n|`+|\$\$?|\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[^\n]|(?i:</?table\b)")
_EVENT_IN_CODE = re.compile(r"\n|`+")
_EVENT_IN_FENCE = re.compile(r"\n")
# What the next character may make one of the above, or a longer one.
_PARTIAL = re.compile(r"(?:(?<!\\)(?:\\\\)*\\[a-zA-Z]*(?:\{[a-zA-Z]*\*?)?|`+|\$+|(?i:</?t?a?b?l?e?))\Z")
_DELIMITER_ROW = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*\Z")
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?[kKmMbB]?(?:[.!?]+\s*\Z|[.,;:!?)]*\s+[\"'(*]?(?!mod\b|div\b)[^\W\d_]{2,})")
_BLOCK_OPENS = ("\\[", "\\begin", "<table")
_BLOCK_CLOSES = ("\\]", "\\end", "</table")


class Structure:
    """Reads text in any pieces; `is_open` says whether what follows belongs to code, maths or a table."""

    __slots__ = (
        "_closer", "_depth", "_fence", "_fence_indent", "_in_table", "_inline", "_inline_length", "_last", "_line",
        "_line_has_bar", "_rest",
    )  # fmt: skip

    def __init__(self) -> None:
        self._rest = ""
        self._line = ""
        self._line_has_bar = False
        self._last = "\n"
        self._fence = ""
        self._fence_indent = 0
        self._depth = 0
        self._in_table = False
        self._closer = ""
        self._inline = ""
        self._inline_length = 0

    @property
    def is_open(self) -> bool:
        return bool(
            self._rest
            or self._fence
            or self._depth
            or self._in_table
            or self._line.lstrip().startswith(("|", "~~~"))
            or (self._closer and not self._is_given_up() and not self._is_price())
        )

    def read(self, text: str) -> None:
        text = self._rest + text
        partial = _PARTIAL.search(text)
        self._rest = partial[0] if partial else ""
        end = len(text) - len(self._rest)
        place = 0
        while event := self._events.search(text, place, end):
            self._pass(text[place : event.start()])
            place = event.end()
            if event[0] == "\n":
                self._end_line()
            else:
                self._meet(event[0], following=text[place : place + 1])
                self._pass(event[0])
        self._pass(text[place:end])

    @property
    def _events(self) -> re.Pattern[str]:
        return _EVENT_IN_FENCE if self._fence else _EVENT_IN_CODE if self._closer[:1] == "`" else _EVENT

    def _pass(self, text: str) -> None:
        if not text:
            return
        self._last = text[-1]
        self._line_has_bar |= "|" in text
        if len(self._line) < _LINE_CHARACTERS:
            self._line += text[: _LINE_CHARACTERS - len(self._line)]
        if self._closer:
            self._inline += text[: max(0, _PRICE_CHARACTERS - len(self._inline))]
            self._inline_length += len(text)

    def _meet(self, event: str, *, following: str) -> None:
        """A mark in prose, in a formula or in inline code; what it opens begins behind it."""
        if self._is_given_up():
            self._closer = ""
        if self._closer == "$" and event[0] == "$" and self._is_price():
            self._open(event, following)
        elif self._closer:
            if event == self._closer and not (event == "$" and (self._last.isspace() or following.isdigit())):
                self._closer = ""
        elif event.lower().startswith(_BLOCK_OPENS):
            self._depth += 1
        elif event.lower().startswith(_BLOCK_CLOSES):
            self._depth = max(0, self._depth - 1)
        elif not self._depth:
            self._open(event, following)

    def _open(self, event: str, following: str) -> None:
        opens = event[0] == "`" or event in ("$$", "\\(") or (event == "$" and not following.isspace())
        # The mark itself is passed next and is no part of what it opens.
        self._closer = ("\\)" if event == "\\(" else event) if opens else ""
        self._inline, self._inline_length = "", -len(event)

    def _end_line(self) -> None:
        line, has_bar = self._line, self._line_has_bar
        self._line, self._line_has_bar, self._last = "", False, "\n"
        is_blank = not line.strip()
        fence = _FENCE.match(line)
        if self._fence:
            if fence and closes_fence(self._fence, self._fence_indent, fence):
                self._fence = ""
        elif fence and not self._depth and self._closer != "$$" and not (fence[2][0] == "`" and "`" in fence[3]):
            self._fence, self._fence_indent, self._closer = fence[2], len(fence[1]), ""
        elif is_blank and self._closer != "$$":
            self._closer = ""
        self._in_table = has_bar and (self._in_table or _DELIMITER_ROW.match(line) is not None)
        if self._closer:
            self._inline += "\n"
            self._inline_length += 1

    def _is_given_up(self) -> bool:
        return self._closer != "$$" and self._inline_length > INLINE_CHARACTERS

    def _is_price(self) -> bool:
        """A dollar before a number that words follow opens no formula."""
        return self._closer == "$" and _PRICE.match(self._inline, 1) is not None
