"""The splitter: however the text is cut, steps end at blank lines between paragraphs and nowhere else."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.flow.splitters.blank_line import BlankLineSplitter as Splitter
from glimprouter.flow.splitters.blank_line import Cut
from glimprouter.flow.steps import LoopWatch, Mark

NEVER = 10**9
BLANKS = [" ", "\t", "\n", "\n\n", ".\n\n", "\r\n", "\n \n"]
MARKERS = [
    "`",
    "```",
    "````",
    "~~~",
    "$$",
    "\\[",
    "\\]",
    "\\\\[2pt]",
    "\\begin{align}",
    "\\end{align}",
    "<table>",
    "</table>",
]
CLOSINGS = ["<", "</th", "ink>", "</think>", "x</think>y"]
PIECES = st.sampled_from(["a", "é", "The sum", *BLANKS, *MARKERS, *CLOSINGS])
TOKENS = st.lists(st.text("ab<\n `$", max_size=3) | PIECES, max_size=40)


def splitter(*, least: int = 0, most: int = NEVER) -> Splitter:
    return Splitter(close_tag="</think>", min_step_tokens=least, max_step_tokens=most)


def steps_of(tokens: Sequence[str], split: Splitter) -> list[tuple[str, Mark]]:
    """Steps up to the closing tag, each with the mark that ended it; the last is open if nothing ended it."""
    steps: list[tuple[str, Mark]] = []
    text = ""
    for token in tokens:
        text += token
        if (mark := split.token(token)) is not Mark.OPEN:
            steps.append((text, mark))
            text = ""
            if mark is Mark.CLOSED:
                return steps
    return [*steps, (text, Mark.OPEN)] if text else steps


def texts_of(tokens: Sequence[str], split: Splitter) -> list[str]:
    return [text for text, _ in steps_of(tokens, split)]


@given(TOKENS, st.integers(0, 5), st.integers(1, 9), st.data())
def test_any_cutting_of_the_text_gives_the_same_steps(
    tokens: list[str], least: int, most: int, data: st.DataObject
) -> None:
    whole, cut = splitter(least=least, most=most), splitter(least=least, most=most)
    ends = list(accumulate(map(len, tokens)))
    expected = [
        Cut(end, mark) for end, token in zip(ends, tokens, strict=True) if (mark := whole.token(token)) is not Mark.OPEN
    ]

    text = "".join(tokens)
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)) | {0, len(text)})
    found, fed = [], 0
    for start, stop in zip(places, [*places[1:], len(text)], strict=True):
        inside = [end - start for end in ends[fed:] if end < stop or stop == len(text)]
        fed += len(inside)
        found += [Cut(start + found_cut.offset, found_cut.mark) for found_cut in cut.feed(text[start:stop], inside)]

    assert found == expected
    assert cut.after_close == whole.after_close


@given(TOKENS, st.integers(0, 5), st.integers(1, 9))
def test_joined_steps_are_the_text_up_to_the_token_that_closes_the_thought(
    tokens: list[str], least: int, most: int
) -> None:
    steps = steps_of(tokens, splitter(least=least, most=most))
    joined = "".join(text for text, _ in steps)
    assert "".join(tokens).startswith(joined)
    assert ("</think>" in "".join(tokens)) == ("</think>" in joined)
    assert joined == "".join(tokens) or steps[-1][1] is Mark.CLOSED


@given(TOKENS)
def test_a_boundary_has_a_blank_line_before_it_and_visible_text_before_that(tokens: list[str]) -> None:
    for text, mark in steps_of(tokens, splitter()):
        if mark is Mark.BOUNDARY:
            assert text.strip()
            assert text[len(text.rstrip()) :].count("\n") >= 2


WORDS = st.text("abc .,", min_size=1, max_size=12).filter(str.strip)
INSIDE = st.lists(st.one_of(WORDS, st.just("")), max_size=4).map("\n".join)
BLOCKS = st.one_of(
    WORDS,
    INSIDE.map("```python\n{}\n```".format),
    INSIDE.map("~~~\n{}\n\n```\n\n~~~".format),
    INSIDE.map("````md\n```\n\n{}\n```\n\n`````  ".format),
    INSIDE.map("1. thus\n   ```\n\n{}\n\n     ```".format),
    INSIDE.map("$$\n{}\n\n$$".format),
    INSIDE.map("so \\[ x\n\n{} \\\\[2pt]\n\n\\] holds".format),
    INSIDE.map("\\begin{{align*}}\n\n\\begin{{cases}}\n\n{}\n\\end{{cases}}\n\n\\end{{align*}}".format),
    INSIDE.map("<table>\n\n<tr>{}</tr>\n\n</TABLE>".format),
)
BLANK_LINES = st.sampled_from(["\n\n", "\n  \n", "\n\t\n", "\r\n\r\n", "\r\n \r\n"])


@given(st.lists(st.tuples(BLOCKS, BLANK_LINES), min_size=1, max_size=6))
def test_every_paragraph_fence_formula_and_table_is_one_step(blocks: list[tuple[str, str]]) -> None:
    assert texts_of("".join(map("".join, blocks)), splitter()) == ["".join(block) for block in blocks]


@given(st.lists(BLOCKS, min_size=1, max_size=6), st.data())
def test_tokens_across_a_boundary_merge_steps_and_never_split_blocks(blocks: list[str], data: st.DataObject) -> None:
    text = "\n\n".join(blocks)
    places = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=20)) | {0, len(text)})
    tokens = [text[start:end] for start, end in pairwise(places)]
    ends = set(accumulate(map(len, texts_of(text, splitter()))))
    # Newlines behind the blank line may stand in the token that completes it.
    assert all(
        any(end <= place and not text[end:place].strip() for end in ends)
        for place in accumulate(map(len, texts_of(tokens, splitter())))
    )


@pytest.mark.parametrize(
    "text",
    [
        "```\na\n\nb\n``\n\nc\n```\n\n",  # a shorter fence closes nothing
        "```\na\n\n~~~\n\nc\n```\n\n",  # nor does one of the other kind
        "```\na\n\n``` python\n\nc\n```\n\n",  # nor one with words behind it
        "```\na\n\n    ```\n\nc\n```\n\n",  # nor one indented as code
        "~~~ `x`\na\n\nb\n~~~~~\n\n",
        "  - ```js\n\n",
        "$$ a\n\n$$ and $$\n\nb $$\n\n",
        "\\[ \\begin{cases} \\]\n\nb \\end{cases}\n\n",
        "<Table border=1>\n\n<table>\n\n</table>\n\n</table>\n\n",
    ],
)
def test_blank_line_inside_a_block_is_no_boundary(text: str) -> None:
    assert texts_of(text, splitter()) == [text]


@pytest.mark.parametrize(
    "opening",
    [
        "```one line of code``` here",
        "the mark `$$` opens a formula",
        "write `<table>` and `\\[`",
        "line break \\\\[2pt] alone",
        "\\] and \\end{align} close nothing",
        "<tablet>",
        "$$x$$",
        "\\[x\\] and \\begin{align}x\\end{align}",
    ],
)
def test_what_only_looks_like_a_block_hides_no_boundary(opening: str) -> None:
    assert texts_of(f"{opening}\n\nb\n\n", splitter()) == [f"{opening}\n\n", "b\n\n"]


def test_token_that_ends_a_sentence_and_a_paragraph_ends_the_step() -> None:
    assert texts_of(["So", " it", " is", ".\n\n", "Next", ":\n\n"], splitter()) == ["So it is.\n\n", "Next:\n\n"]


def test_step_in_whose_last_token_the_next_one_begins_goes_on() -> None:
    assert texts_of(["One", ".\n\nTwo", " and", "\n\n", "Three"], splitter()) == ["One.\n\nTwo and\n\n", "Three"]


@pytest.mark.parametrize("lead", ["\n\n", "\n", " \n\n \n", "\r\n\r\n"])
def test_leading_white_space_of_a_step_is_no_boundary(lead: str) -> None:
    assert texts_of([lead, lead, "One", "\n\n", lead, "Two", "\n\n"], splitter()) == [
        f"{lead}{lead}One\n\n",
        f"{lead}Two\n\n",
    ]


def test_white_space_after_a_forced_boundary_is_no_step_of_its_own() -> None:
    tokens = ["One", " two", "\n\n", "three", "\n\n"]
    assert steps_of(tokens, splitter(most=2))[:2] == [("One two", Mark.FORCED), ("\n\nthree", Mark.FORCED)]
    assert texts_of(tokens, splitter(most=3)) == ["One two\n\n", "three\n\n"]
    assert texts_of(["a", "\n\n", "b", "\n\n"], splitter(most=1)) == ["a", "\n\n", "b", "\n\n"]


def test_step_under_the_minimum_is_merged_into_the_next() -> None:
    tokens = ["Hm", ".\n\n", "So", " we", " go", " on", ".\n\n", "End"]
    assert texts_of(tokens, splitter(least=3)) == ["Hm.\n\nSo we go on.\n\n", "End"]
    assert texts_of(tokens, splitter(least=2)) == ["Hm.\n\n", "So we go on.\n\n", "End"]


@given(TOKENS, st.integers(1, 8))
def test_no_boundary_comes_before_the_minimum(tokens: list[str], least: int) -> None:
    split, count = splitter(least=least), 0
    for token in tokens:
        count += 1
        mark = split.token(token)
        assert mark is not Mark.BOUNDARY or count >= least
        count = 0 if mark is Mark.BOUNDARY else count


@given(st.lists(st.sampled_from(["a", " b", "\n", "```", "$$"]), max_size=60), st.integers(1, 7))
def test_no_step_is_longer_than_the_maximum_also_where_a_fence_stays_open(tokens: list[str], most: int) -> None:
    split, count = splitter(most=most), 0
    for token in ["```\n", *tokens]:
        count = count + 1 if split.token(token) is Mark.OPEN else 0
        assert count < most


def test_boundary_is_forced_only_at_a_complete_character() -> None:
    assert steps_of(["a", "b", "", "", "é", "c"], splitter(most=3)) == [("abé", Mark.FORCED), ("c", Mark.OPEN)]
    assert splitter(most=2).feed("abéc", [1, 2, 2, 3, 4]) == [Cut(2, Mark.FORCED), Cut(3, Mark.FORCED)]


def test_fence_stays_open_behind_a_forced_boundary() -> None:
    tokens = ["```", "\n", "a", "\n\n", "b", "\n", "```", "\n\n", "c"]
    assert steps_of(tokens, splitter(most=6)) == [
        ("```\na\n\nb\n", Mark.FORCED),
        ("```\n\n", Mark.BOUNDARY),
        ("c", Mark.OPEN),
    ]


@given(st.integers(1, 8), st.data())
def test_closing_tag_is_found_however_tokens_straddle_it_and_no_boundary_is_forced_inside(
    most: int, data: st.DataObject
) -> None:
    text = "So it is\n</think>\n\n42"
    places = sorted(data.draw(st.sets(st.integers(1, len(text)))) | {0, len(text)})
    steps = steps_of([text[a:b] for a, b in pairwise(places)], splitter(most=most))
    assert steps[-1][1] is Mark.CLOSED
    assert "</think>" in steps[-1][0]
    assert not any(mark is Mark.CLOSED for _, mark in steps[:-1])


@pytest.mark.parametrize("tag", ["</think>", "[/THINK]", "◁/think▷", "§"])
def test_text_behind_the_closing_tag_is_kept_and_never_a_boundary(tag: str) -> None:
    split = Splitter(close_tag=tag, min_step_tokens=0, max_step_tokens=1)
    marks = [split.token(text) for text in (f"a\n\n{tag[:-1]}", f"{tag[-1:]}\n\nThe ", "sum\n\n")]
    assert marks[1:] == [Mark.CLOSED, Mark.CLOSED]
    assert split.after_close == "\n\nThe "


def test_closing_tag_counts_inside_an_open_fence_and_nothing_follows_unless_its_token_goes_on() -> None:
    split = splitter()
    assert split.token("```\ncode\n\n") is Mark.OPEN
    assert split.after_close is None
    assert split.token("</think>") is Mark.CLOSED
    assert split.after_close == ""


def test_text_that_only_begins_like_the_closing_tag_delays_a_forced_boundary_for_a_moment() -> None:
    marks = [mark for _, mark in steps_of(["<"] * 40, splitter(most=4))]
    assert Mark.FORCED in marks


def test_long_line_costs_each_token_its_own_length() -> None:
    class Counting(Splitter):
        read = 0

        def _read_structure(self, line: str) -> None:
            Counting.read += len(line)
            super()._read_structure(line)

    split = Counting(close_tag="</think>", min_step_tokens=0, max_step_tokens=NEVER)
    for _ in range(50_000):
        split.token("$ab`")
        # No string is kept that grows, so no token is charged for what came before it.
        assert all(len(value) < 10 for name in Splitter.__slots__ if isinstance(value := getattr(split, name), str))
    assert Counting.read == 0
    assert split.token("\n\n") is Mark.BOUNDARY
    assert Counting.read == 200_000


@pytest.mark.parametrize(
    ("steps", "cycle"), [("AAA", 1), ("ABAB", 2), ("ABCABC", 3), ("ABCDABCD", 4), ("XYABAB", 2), ("ABABAB", 2)]
)
def test_loop_is_noticed_with_the_length_of_its_cycle(steps: str, cycle: int) -> None:
    watch = LoopWatch(3)
    assert [watch.step(f"Step {name}.\n\n") for name in steps][-1] == cycle


@pytest.mark.parametrize("steps", ["AA", "ABA", "AABB", "ABCAB", "ABCABD", "ABCDEABCDE", "AAB", "ABBA"])
def test_near_repeat_is_no_loop(steps: str) -> None:
    watch = LoopWatch(3)
    assert not any(watch.step(f"Step {name}.\n\n") for name in steps)


def test_loop_is_seen_through_white_space_and_not_through_numbers() -> None:
    watch = LoopWatch(2)
    assert watch.step("Try 1  again.\n\n") == 0
    assert watch.step("\nTry 1 again.\r\n\r\n") == 1
    assert watch.step("Try 2 again.") == 0


def test_loop_that_is_left_counts_no_more() -> None:
    watch = LoopWatch(3)
    assert [watch.step(name) for name in "AAABAA"] == [0, 0, 1, 0, 0, 0]


@given(st.lists(st.sampled_from("AB"), min_size=4, max_size=12), st.integers(2, 5))
def test_steps_are_a_loop_exactly_where_their_end_goes_round(steps: list[str], repeats: int) -> None:
    watch = LoopWatch(repeats)
    cycle = [watch.step(name) for name in steps][-1]
    rounds = {1: repeats, 2: max(2, repeats - 1), 3: max(2, repeats - 1), 4: max(2, repeats - 1)}
    circles = [
        length
        for length, times in rounds.items()
        if len(steps) >= length * times and steps[-length * times :] == steps[-length:] * times
    ]
    assert cycle == next(iter(circles), 0)
