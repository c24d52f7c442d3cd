"""Where a piece of a step ends: tokens, cue words, sentences."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.flow.trace import StepEnd
from glimprouter.flow.until import Limit, Until


def pieces(text: str) -> list[str]:
    return re.findall(r" ?\w+|\W", text)


def ended(text: str, until: Until, *, opens: bool = True) -> tuple[str, StepEnd | None]:
    """What was written when the limit spoke, and what it said."""
    limit, written = Limit(until, opens=opens), ""
    for piece in pieces(text):
        written += piece
        if end := limit.token(piece):
            return written, end
    return written, None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Wait, that is wrong", "Wait,"),
        ("wait\nno", "wait\n"),
        ("Hold on a moment", "Hold on a"),
        ("  *So* it is", "  *So*"),
        ("It is 4. So x is 2", "It is 4. So x"),
        ("Is it?\nWait, no", "Is it?\nWait,"),
    ],
)
def test_cue_is_met_where_a_sentence_opens_with_it(text: str, written: str) -> None:
    assert ended(text, Until(cues=("wait", "hold on", "so"))) == (written, "cue")


@pytest.mark.parametrize("text", ["Solve it", "Waiting for it", "I said: wait, no", "Hold it", "so", ""])
def test_other_words_are_no_cue(text: str) -> None:
    assert ended(text, Until(cues=("wait", "hold on", "so")))[1] is None


def test_piece_within_a_sentence_does_not_open_with_a_cue() -> None:
    until = Until(cues=("so",))
    assert ended("So it is. So be it", until, opens=False) == ("So it is. So be", "cue")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("It is 4. Then", "It is 4."),
        ('"Is it?" Yes', '"Is it?'),
        ("One line\nNext", "One line\n"),
        ("No end", "No end"),
    ],
)
def test_sentence_ends_at_its_mark_or_line(text: str, written: str) -> None:
    assert ended(text, Until(sentence=True))[0] == written


@given(st.lists(st.sampled_from(["a", " b", "", "."]), max_size=20), st.integers(1, 10))
def test_no_piece_is_longer_than_its_tokens_or_ends_within_a_character(texts: list[str], most: int) -> None:
    limit = Limit(Until(tokens=most), opens=True)
    for number, text in enumerate(texts, 1):
        end = limit.token(text)
        assert (end == "tokens") == (number >= most and bool(text))
        if end:
            return
