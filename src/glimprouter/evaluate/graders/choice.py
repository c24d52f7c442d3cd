"""Multiple choice: the letter that an answer states, by itself or by the text of an option."""

from __future__ import annotations

import re
from collections.abc import Sequence

from glimprouter.evaluate.graders.extraction import boxed
from glimprouter.evaluate.graders.grade import NOTHING, Grade
from glimprouter.evaluate.suites.suite import Problem

_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|boldsymbol)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"[\s(\[{*$]*(?:option|choice|answer)?[\s(\[{*$:]*([A-Za-z])[\s)\]}*$.]*", re.IGNORECASE)
_LETTER_WITH_TEXT = re.compile(r"[\s(\[*$]*([A-Z])\s*[).:\]]+\s+(.+)", re.DOTALL)
_STATED = re.compile(r"(?:final\s+|correct\s+)?(?:answer|option|choice)\**\s*(?:is|[:=])\s*(.+)", re.IGNORECASE)


class ChoiceGrader:
    """`options` of the entry are in the order they were asked in; the gold answer is a letter."""

    def grade(self, problem: Problem, answer: str) -> Grade:
        letter = choose(answer, problem.entry["options"])
        if letter is None:
            return NOTHING
        return Grade(letter == problem.answer, letter, "" if letter == problem.answer else "another option")

    def close(self) -> None:
        pass


def choose(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that an answer states: in its last box, in its last statement, or as all it says."""
    if (content := boxed(answer)) is not None:
        return _letter(content, options)
    lines = [line for line in answer.splitlines() if line.strip()]
    for line in reversed(lines):
        if stated := _STATED.search(line.replace("**", "")):
            return _letter(stated[1], options)
    return _letter(lines[0], options) if len(lines) == 1 else None


def _letter(text: str, options: Sequence[str]) -> str | None:
    bare = _bare(text)
    letters = [chr(ord("A") + place) for place in range(len(options))]
    same = [letter for letter, option in zip(letters, options, strict=True) if _bare(option) == bare]
    if len(same) == 1:
        return same[0]
    if found := _LETTER.fullmatch(bare):
        return found[1].upper() if found[1].upper() in letters else None
    if (found := _LETTER_WITH_TEXT.fullmatch(bare)) and found[1] in letters:
        return found[1] if _bare(found[2]) == _bare(options[letters.index(found[1])]) else None
    return None


def _bare(text: str) -> str:
    """Without emphasis, formula signs, wrappers of text, and the full stop at the end."""
    before = None
    while before != text:
        before, text = text, _WRAPPER.sub(r"\1", text)
    return " ".join(text.replace("\\(", "").replace("\\)", "").strip().strip("*$` ").removesuffix(".").split())
