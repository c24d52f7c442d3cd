"""Splitters that look ahead: the same gaps however the text is cut, and none inside code, maths or tables."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimprouter.config import Routing
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.errors import ConfigError
from glimprouter.flow.request import ask
from glimprouter.flow.splitters import make_splitter
from glimprouter.flow.steps import Mark
from glimprouter.router import Router

TAG = "</think>"
PROTECTED = [
    "`a. B`", "$x. Y$", "\\(p. Q\\)", "\\[\nu. V\n\\]", "$$\nu. V\n\n$$", "```py\na. So B\n\nSo c\n```",
    "\\begin{align}\na. So B\n\\end{align}", "<table><td>One. Two</td></table>",
    "| a. B | c |\n| --- | --- |\n| So. So | d |",
]  # fmt: skip
PIECES = [
    "So ", "The sum is 3.14. ", "e.g. this ", "J. Smith ", "Wait, no! ", "Then ", "42", ". ", ".", "\n", "\n\n",
    "他来了。", "！”", "...", "costs $5. Then ", "`", "$", "|", "1. ", "**So** ", *PROTECTED,
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def cut_places(name: str, tokens: Sequence[str]) -> list[int]:
    """Where a splitter cuts, as the loop asks it: what is pending is settled by tokens to come."""
    split = make_splitter(Routing(splitter=name, min_step_tokens=0, max_step_tokens=10**6), close_tag=TAG)
    places, ends = [], list(accumulate(map(len, tokens)))
    for place, token in enumerate(tokens):
        mark, seen = split.token(token), place
        while mark is Mark.PENDING:
            seen += 1
            ahead = "".join(tokens[place + 1 : seen + 1])
            mark = split.ahead(ahead, last=seen >= len(tokens) - 1)
        if mark is not Mark.OPEN:
            places.append(ends[place])
    return places


@pytest.mark.parametrize("name", ["sentence", "discourse"])
@given(text=TEXTS, data=st.data())
def test_a_gap_ends_a_step_wherever_a_token_ends_in_it_and_nowhere_else(
    name: str, text: str, data: st.DataObject
) -> None:
    places = sorted(data.draw(st.sets(st.integers(1, max(1, len(text))), max_size=30)) | {0, len(text)})
    ends = [place for place in places if place <= len(text)]
    expected = []
    for place in cut_places(name, list(text)):
        gap_end = place + len(text[place:]) - len(text[place:].lstrip())
        expected += [end for end in ends if place <= end <= gap_end][:1]
    assert cut_places(name, [text[a:b] for a, b in pairwise(ends)]) == expected


@pytest.mark.parametrize("name", ["sentence", "discourse", "tokens(1)"])
@pytest.mark.parametrize("block", PROTECTED)
def test_no_step_ends_inside_code_maths_or_a_table(name: str, block: str) -> None:
    text = f"Here it is.\n{block}\nSo it goes on. Then it ends."
    start = text.index(block)
    inside = [place for place in cut_places(name, list(text)) if start < place < start + len(block)]
    assert not inside


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Pi is 3.14 e.g. here. Next it is.", 2),
        ("J. Smith is in. So am I.", 2),
        ("It costs $5. Then 5! = 120. Done it is.", 3),
        ("他来了。然后走了。", 2),
        ("1. First one\n2. Second one", 2),
        ("Well... maybe so. Yes it is.", 2),
        ("The point is A. Then we go on.", 2),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, steps: int) -> None:
    assert len([place for place in cut_places("sentence", list(text)) if place < len(text)]) == steps - 1


def test_discourse_ends_a_step_only_before_a_move() -> None:
    text = "Take 3. Add 4. Wait, it is 5. The sum is 8. However it is not. So 8."
    assert [text[place:].strip()[:4] for place in cut_places("discourse", list(text))] == ["Wait", "Howe", "So 8"]


@pytest.mark.parametrize("name", ["words", "sentence(3)", "tokens(0)x", "tokens()"])
def test_unknown_splitter_is_refused_with_what_is_accepted(name: str) -> None:
    with pytest.raises(ConfigError, match=r"splitter is .*accepted: blank-line"):
        Routing(splitter=name)


async def test_paragraph_changes_hands_between_sentences_and_what_was_looked_at_is_discarded() -> None:
    vocabulary = Vocabulary()
    text = "Go from left to right now. So it is nine then. Done it is."
    small, large = (ScriptedEngine([Line(text)], answer="9", vocabulary=vocabulary) for _ in range(2))
    routing = Routing(splitter="sentence", policy="small", first_large_steps=1, warm=False)
    trace = await Router(small, large).answer(ask("Why?", routing=routing))
    assert trace.splitter == "sentence"
    assert trace.thought == text
    assert [step.author for step in trace.steps] == ["large", "small", "small"]
    assert trace.large.discarded_tokens > 0
