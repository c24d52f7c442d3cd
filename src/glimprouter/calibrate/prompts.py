"""The user's own prompts: a text file, one a line, or JSON Lines with answers and families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from glimprouter.errors import ConfigError

QUESTION_KEYS = ("question", "prompt", "problem", "input", "text")
ANSWER_KEYS = ("answer", "gold", "target", "solution")


@dataclass(frozen=True, slots=True)
class Question:
    """`answer` and `family` are None where the file tells none."""

    id: str
    text: str
    answer: str | None = None
    family: str | None = None


def read_questions(path: Path, *, family_field: str | None = None) -> list[Question]:
    """Every question of a file, each text once. Raises ConfigError naming the line that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--prompts {path}: cannot be read ({error}); give a UTF-8 text file or JSON Lines", field="prompts"
        ) from error
    is_json = path.suffix in (".jsonl", ".ndjson", ".json")
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"--prompts {path}:{number}"
        read = _from_json(line, where, family_field) if is_json else Question("", line.strip())
        questions.setdefault(read.text, Question(str(number), read.text, read.answer, read.family))
    if not questions:
        raise ConfigError(f"--prompts {path}: holds no question; give one a line", field="prompts")
    return list(questions.values())


def _from_json(line: str, where: str, family_field: str | None) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error}); give one object a line", field="prompts") from error
    if isinstance(row, str):
        row = {"question": row}
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: is {type(row).__name__}; accepted: an object or a text", field="prompts")
    text = _first(row, QUESTION_KEYS)
    if text is None:
        keys = ", ".join(QUESTION_KEYS)
        raise ConfigError(f"{where}: has no question; accepted: a text under one of {keys}", field="prompts")
    family = row.get(family_field) if family_field else None
    if family_field and family is None:
        raise ConfigError(f"{where}: has no {family_field!r}, which --family-field names", field="family_field")
    return Question("", text, _first(row, ANSWER_KEYS), None if family is None else str(family))


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    values = (row[key] for key in keys if row.get(key) is not None)
    value = next(values, None)
    return None if value is None or not str(value).strip() else str(value).strip()


def is_right(given: str | None, gold: str) -> bool:
    """The same number, or the same text but for case, spaces and thousands commas."""
    if given is None:
        return False
    first, second = _plain(given), _plain(gold)
    if first == second:
        return True
    try:
        return Fraction(first) == Fraction(second)
    except (ValueError, ZeroDivisionError):
        return False


def _plain(text: str) -> str:
    return "".join(text.casefold().split()).replace(",", "").removesuffix(".").strip("$")
