"""`sentence`: a step ends where a sentence does, in Latin, Chinese or Japanese script, or where a line ends.

Not at abbreviations, initials, decimals, numbers of lists, ellipses inside a sentence or factorials.
"""

from __future__ import annotations

import re

from glimprouter.flow.splitters.gaps import Gap

_CLOSERS = "\"'”’)]}*_»」』）】》"
_CJK_STOPS = "。！？｡"
_END = re.compile(rf"[.!?…{_CJK_STOPS}][{re.escape(_CLOSERS)}]*\Z")
_WORD = re.compile(r"([^\s(\[\"'“‘*_]*)\Z")
_ABBREVIATIONS = frozenset(
    [
        "e.g",
        "i.e",
        "vs",
        "cf",
        "al",
        "fig",
        "figs",
        "eq",
        "eqs",
        "no",
        "nos",
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "jr",
        "sr",
        "approx",
        "resp",
        "sec",
        "ch",
        "vol",
        "p",
        "pp",
        "ed",
        "eds",
        "viz",
        "incl",
        "excl",
        "inc",
        "ltd",
        "co",
        "dept",
        "est",
        "ca",
        "dist",
        "def",
        "thm",
        "prop",
        "lem",
    ]
)
_LABEL = re.compile(
    r"(?:^|\n)[ \t]*\(?(?:\d+|[a-zA-Z])\Z|\b(?:step|case|part|equation|lemma|theorem|example)\s+\d+\Z", re.IGNORECASE
)
_DOTTED = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]\Z")
_OPENERS = frozenset(
    [
        "a",
        "after",
        "also",
        "an",
        "and",
        "as",
        "at",
        "but",
        "by",
        "each",
        "finally",
        "first",
        "for",
        "from",
        "hence",
        "here",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "let",
        "next",
        "no",
        "not",
        "now",
        "of",
        "on",
        "one",
        "or",
        "second",
        "since",
        "so",
        "that",
        "the",
        "then",
        "there",
        "therefore",
        "these",
        "they",
        "this",
        "thus",
        "to",
        "wait",
        "we",
        "what",
        "when",
        "which",
        "yes",
        "you",
    ]
)
_WRAPPED_LINE_CHARACTERS = 60


class SentenceRule:
    name = "sentence"
    look_ahead_characters = 16
    window_characters = 200

    def may_end(self, before: str, space: str) -> bool:
        return "\n" in space or _END.search(before) is not None

    def ends(self, gap: Gap) -> bool | None:
        first = gap.body[0]
        if "\n" in gap.space:
            line = gap.before.rpartition("\n")[2]
            wrapped = first.islower() and len(line) >= _WRAPPED_LINE_CHARACTERS
            return not (wrapped and _END.search(gap.before) is None)
        end = _END.search(gap.before)
        if end is None:
            return False
        if end[0][0] in _CJK_STOPS:
            return first not in _CLOSERS + _CJK_STOPS + "…"
        return bool(gap.space) and self._opens(gap, end)

    def _opens(self, gap: Gap, end: re.Match[str]) -> bool | None:
        first, before = gap.body[0], gap.before[: end.start()]
        if first in "=+,;:)]}<>≤≥≠·×/^!?." or end[0].startswith("…") or before.endswith("."):
            return first.isupper()
        if first.islower():
            return False
        if not end[0].startswith("."):
            return True
        match = _WORD.search(before)
        word = match[1] if match else ""
        if word.lower() in _ABBREVIATIONS or _DOTTED.search(word) or _LABEL.search(before):
            return False
        if len(word) == 1 and word.isupper() and first.isupper():
            opener = re.match(r"\w+", gap.body)
            if opener and len(opener[0]) == len(gap.body) and not gap.whole:
                return None
            return opener is not None and opener[0].lower() in _OPENERS
        return True
