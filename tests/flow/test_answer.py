"""Text held back: what a reader sees never holds the string that ends it, however the text arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.flow.answer import HoldBack

STRINGS = st.lists(st.text("ab<", min_size=1, max_size=4) | st.just("</think>"), max_size=3)
TEXTS = st.lists(st.text("ab<", max_size=3) | st.sampled_from(["</", "<</think>", "</think", "think>"]), max_size=12)


def up_to_the_first(text: str, strings: list[str]) -> tuple[str, bool]:
    """The text before the string that is complete first (the longest of several); whether there is one."""
    for end in range(1, len(text) + 1):
        if complete := [string for string in strings if text[:end].endswith(string)]:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(STRINGS, TEXTS)
def test_what_passes_and_what_is_held_is_the_text_up_to_the_first_string(strings: list[str], parts: list[str]) -> None:
    guard, shown, text, expected = HoldBack(*strings), "", "", ""
    for part in parts:
        shown, text = shown + guard.feed(part), text + part
        expected, hit = up_to_the_first(text, strings)
        assert guard.hit is hit
        assert expected.startswith(shown)
        assert not hit or shown == expected
    assert shown + guard.flush() == expected


@given(STRINGS, TEXTS)
def test_no_more_is_held_than_may_begin_a_string(strings: list[str], parts: list[str]) -> None:
    guard, shown = HoldBack(*strings), ""
    for part in parts:
        shown += guard.feed(part)
    held = "" if guard.hit else "".join(parts).removeprefix(shown)
    assert not held or any(string.startswith(held) and string != held for string in strings)


@pytest.mark.parametrize("parts", [["<</think>"], ["<", "<", "/think>"], ["<</", "think>x"], [*"<</think>"]])
def test_beginnings_that_overlap_are_told_apart(parts: list[str]) -> None:
    guard = HoldBack("</think>")
    assert "".join(map(guard.feed, parts)) == "<"
    assert guard.hit
    assert guard.flush() == ""


def test_the_string_that_is_complete_first_counts_however_much_arrives_at_once() -> None:
    for parts in (["abcde"], [*"abcde"]):
        guard = HoldBack("abcde", "bcd")
        assert "".join(map(guard.feed, parts)) == "a"


def test_without_strings_everything_passes_at_once() -> None:
    guard = HoldBack()
    assert (guard.feed("a<"), guard.flush(), guard.hit) == ("a<", "", False)


def test_nothing_passes_behind_the_string() -> None:
    guard = HoldBack("END")
    assert (guard.feed("a END b"), guard.feed("c")) == ("a ", "")
