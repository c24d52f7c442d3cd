"""`discourse`: a step ends where the next sentence opens with a move, such as an inference or a change of mind."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from glimprouter.errors import ConfigError
from glimprouter.flow.splitters.gaps import Gap
from glimprouter.flow.splitters.sentence import SentenceRule

_MARKUP = "*_#>-\"'“ \t"


class DiscourseRule(SentenceRule):
    name = "discourse"
    look_ahead_characters = 40

    def __init__(self, phrases: tuple[str, ...]) -> None:
        self._phrases = phrases

    def ends(self, gap: Gap) -> bool | None:
        return self._makes_move(gap) if (ends := super().ends(gap)) else ends

    def _makes_move(self, gap: Gap) -> bool | None:
        opening = gap.body.lstrip(_MARKUP).lower().replace("’", "'")
        if not opening and not gap.whole:
            return None
        for phrase in self._phrases:
            if opening.startswith(phrase) and not opening[len(phrase) : len(phrase) + 1].isalnum():
                if len(opening) > len(phrase) or gap.whole or not phrase[-1].isalnum():
                    return True
                return None
        return None if not gap.whole and any(phrase.startswith(opening) for phrase in self._phrases) else False


@lru_cache(maxsize=16)
def phrases(file: str = "") -> tuple[str, ...]:
    """The shipped openings and those of a user's TOML file. Raises ConfigError naming the file and the key."""
    tables = [tomllib.loads((files("glimprouter.flow.splitters") / "moves_en.toml").read_text(encoding="utf-8"))]
    if file:
        try:
            tables.append(tomllib.loads(Path(file).read_text(encoding="utf-8-sig")))
        except (OSError, ValueError) as error:
            message = (
                f"splitter_moves is {file!r}, which cannot be read ({error}); give a TOML file of lists of phrases"
            )
            raise ConfigError(message, field="splitter_moves") from error
    found: set[str] = set()
    for table in tables:
        for move, listed in table.items():
            if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
                message = f"splitter_moves: {move} in {file} is {listed!r}; accepted: a list of phrases"
                raise ConfigError(message, field="splitter_moves")
            found.update(one.strip().lower() for one in listed)
    return tuple(sorted(found, key=len))
