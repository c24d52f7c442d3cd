"""The profile of cue words: which openings of sentences are followed by sure tokens."""

import math

import pytest

from glimprouter.evaluate.cues import margin, profile, sentences
from glimprouter.flow.engine import Token


def token(text: str, first: float = 0.9) -> Token:
    """The likeliest token has the probability `first`, the next what is left."""
    return Token(1, text, math.log(first), ((1, math.log(first)), (2, math.log(1 - first))))


def sentence(*texts: str, first: float) -> list[Token]:
    return [token(text, first) for text in texts]


def test_margin_is_between_the_two_best() -> None:
    assert margin(token("So", 0.75)) == pytest.approx(0.5)
    assert margin(Token(1, "So", 0.0, ((1, 0.0),))) == pytest.approx(1.0)


def test_sentences_end_at_their_marks_and_at_lines() -> None:
    thought = sentence("So", " it", " is", ".\n\n", "Is", " it", "?", "\n", "Yes", first=0.9)
    assert ["".join(one.text for one in found) for found in sentences(thought)] == [
        "So it is.\n\n",
        "Is it?",
        "\n",
        "Yes",
    ]


def test_words_after_which_the_model_is_sure_are_its_cues() -> None:
    sure, unsure = sentence("So", " it", " is", ".", first=0.99), sentence("Hmm", " no", " way", ".", first=0.6)
    cues = profile([sure + unsure] * 5, least_times=5, least_gain=0.0)
    assert [(cue.word, cue.times) for cue in cues] == [("So", 5)]
    assert cues[0].margin == pytest.approx(0.98)


def test_rare_words_and_numbers_are_no_cues() -> None:
    thought = sentence("So", " it", ".", "4", " is", ".", first=0.99) + sentence("Hm", " no", ".", first=0.6)
    assert profile([thought] * 4, least_times=5, least_gain=0.0) == []
    assert {cue.word for cue in profile([thought] * 5, least_times=5, least_gain=-1.0)} == {"So", "Hm"}


def test_nothing_to_read_has_no_cues() -> None:
    assert profile([], least_times=1, least_gain=0.0) == []
