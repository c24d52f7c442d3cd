"""From an answer's text to what is graded: the result as the answer states it, or None. Never a guess."""

from __future__ import annotations

import re

_STATED = re.compile(r"(?:final answer|answer)\s*(?:is|[:=])\s*(.+)", re.IGNORECASE)
_BOXED = "\\boxed{"
_JOINED = re.compile(r"[\s$]*(?:[,;]\s*)?(?:[,;]|and|or)[\s$]*")


def extract(answer: str) -> str | None:
    """What stands in the last \\boxed{}, else in a last line that states an answer, else the whole of a single line.

    None for an empty text, and for one of several lines that states nothing.
    """
    if (content := boxed(answer)) is not None:
        return content or None
    lines = [line for line in answer.splitlines() if line.strip()]
    if not lines:
        return None
    if stated := _STATED.search(lines[-1]):
        return _bare(stated[1]) or None
    return (_bare(lines[0]) or None) if len(lines) == 1 else None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{}, empty where it is not closed; None without one.

    Boxes that only commas or "and" stand between are one answer of several parts.
    """
    place = text.rfind(_BOXED)
    if place < 0:
        return None
    content, _ = _content(text, place)
    parts = [content]
    while content and (earlier := text.rfind(_BOXED, 0, place)) >= 0:
        before, end = _content(text, earlier)
        if not before or end > place or not _JOINED.fullmatch(text[end:place]):
            break
        parts.insert(0, before)
        place = earlier
    return ", ".join(dict.fromkeys(parts))


def _content(text: str, place: int) -> tuple[str, int]:
    """What stands in the box at a place, and where the box ends."""
    start, depth = place + len(_BOXED), 1
    for offset, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return _bare(text[start:offset]), offset + 1
    return "", len(text)


def _bare(text: str) -> str:
    """Without emphasis, formula signs and a closing full stop."""
    return text.strip().strip("*$` ").removesuffix(".").strip("*$` ")
