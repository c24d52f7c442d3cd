"""`tokens(n)`: a step ends at the first gap between words after n tokens. For thoughts without any structure."""

from __future__ import annotations

from glimprouter.flow.splitters.gaps import Gap

_FIRST_UNSPACED = "⺀"
"""From here on scripts are written without spaces between words."""


class WordRule:
    look_ahead_characters = 4
    window_characters = 80

    def __init__(self, tokens: int) -> None:
        self.name = f"tokens({tokens})"

    def may_end(self, before: str, space: str) -> bool:  # noqa: ARG002 - any gap between words will do
        return True

    def ends(self, gap: Gap) -> bool:
        return bool(gap.space) or (gap.before[-1] >= _FIRST_UNSPACED and gap.body[0] >= _FIRST_UNSPACED)
