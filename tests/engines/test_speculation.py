"""The large model has the small one propose: llama.cpp's own way of it, and which pairs can."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from glimprouter.config import Model, Routing
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.errors import ConfigError, ModelError, PairError
from glimprouter.flow.engine import Usage
from glimprouter.flow.request import ask
from glimprouter.pair import draft_for, open_pair
from tests.engines.bigram_gguf import Table, chain, ids_of, write_bigram_gguf
from tests.engines.drawn import FREE, GREEDY, draw

STORY = chain(*[bytes([byte]) for byte in range(97, 118)])
QUESTION = "State the final answer to the following arithmetic problem: 62 + 34 - 58 ="


class Started:
    """Engines with a draft, closed in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engines: list[LocalGguf] = []

    async def speculating(self, table: Table, draft: Table, tokens: int) -> LocalGguf:
        model = write_bigram_gguf(self._folder / "large.gguf", table)
        small = write_bigram_gguf(self._folder / "small.gguf", draft)
        self._engines.append(await LocalGguf.start(model, exact=True, draft=small, speculate=tokens))
        return self._engines[-1]

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Started]:
    made = Started(tmp_path)
    yield made
    await made.close()


# llama.cpp ------------------------------------------------------------------------------------------------------------


async def test_greedy_tokens_stay_the_same_and_the_draft_is_accounted_for(started: Started) -> None:
    engine = await started.speculating(STORY, STORY | {b"c": {b"z": 1.0}}, 4)
    drawn = await draw(engine, ids_of(b"a"), max_tokens=100)
    assert (drawn.text, drawn.finish) == ("bcdefghijklmnopqrstu", "stop")
    assert 0 < drawn.usage.accepted_tokens < drawn.usage.drafted_tokens


async def test_the_account_is_kept_of_a_stream_left_early(started: Started) -> None:
    engine = await started.speculating(STORY, STORY, 4)
    usage = Usage()
    async with engine.generate(ids_of(b"a"), GREEDY, max_tokens=100, top=0, usage=usage) as stream:
        for _ in range(8):
            await anext(stream)
    assert usage.accepted_tokens >= 4


async def test_the_distribution_stays_as_it_is(started: Started) -> None:
    table = {b"x": {b"x": 0.6, b"y": 0.4}, b"y": {b"x": 0.9, b"y": 0.1}}
    draft = {b"x": {b"x": 0.85, b"y": 0.15}, b"y": {b"x": 0.8, b"y": 0.2}}
    engine = await started.speculating(table, draft, 4)
    pairs: Counter[str] = Counter()
    for seed in range(6):
        drawn = await draw(engine, ids_of(b"x"), replace(FREE, seed=seed), max_tokens=400)
        assert drawn.usage.drafted_tokens
        pairs.update(map("".join, zip("x" + drawn.text, drawn.text, strict=False)))
    assert pairs["xy"] / (pairs["xx"] + pairs["xy"]) == pytest.approx(0.4, abs=0.05)
    assert pairs["yy"] / (pairs["yx"] + pairs["yy"]) == pytest.approx(0.1, abs=0.04)


async def test_characters_of_several_tokens_keep_their_ids(started: Started) -> None:
    story = chain(b"a", b"\xf0\x9f\x98", b"\x80", b"b", b"\xe2", b"\x82", b"\xac", b"!")
    engine = await started.speculating(story, story, 3)
    drawn = await draw(engine, ids_of(b"a"))
    assert drawn.text == "😀b€!"
    assert drawn.ids == ids_of(b"\xf0\x9f\x98", b"\x80", b"b", b"\xe2", b"\x82", b"\xac", b"!")


async def test_log_probabilities_are_not_promised_for_proposed_tokens_have_none(started: Started) -> None:
    engine = await started.speculating(STORY, STORY, 4)
    assert (await engine.facts()).most_top == 0
    assert {token.top for token in (await draw(engine, ids_of(b"a"), top=5)).tokens} == {()}


async def test_a_draft_that_is_no_model_is_refused(tmp_path: Path) -> None:
    model = write_bigram_gguf(tmp_path / "large.gguf", STORY)
    with pytest.raises(ModelError, match=r"nowhere\.gguf: no such file"):
        await LocalGguf.start(model, draft=tmp_path / "nowhere.gguf", speculate=2)


# Pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["glimpse", "large"])
async def test_the_tiny_pair_speculates_without_changing_a_step(policy: str) -> None:
    routing = Routing(policy=policy, threshold=0.4, max_thinking_tokens=400)
    traces = []
    for speculate in (0, 4):
        async with open_pair(exact=True, speculate=speculate) as pair:
            traces.append(await pair.router().answer(ask(QUESTION, routing=routing, sampling=GREEDY)))
    alone, helped = traces
    assert [(step.author, step.ids) for step in helped.steps] == [(step.author, step.ids) for step in alone.steps]
    assert helped.answer == alone.answer
    assert alone.large.drafted_tokens == 0
    assert 0 < helped.large.accepted_tokens <= helped.large.drafted_tokens
    assert helped.small.drafted_tokens == 0


async def test_models_that_number_their_tokens_differently_do_not_speculate(tmp_path: Path) -> None:
    small = write_bigram_gguf(tmp_path / "small.gguf", STORY)
    with pytest.raises(PairError, match="number their tokens differently"):
        async with open_pair(str(small), "tiny-large", speculate=4):
            pass


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        (Model(("s.gguf",)), Model(("http://127.0.0.1:1",), speculate=4), "--speculative-config"),
        (Model(("http://127.0.0.1:1",)), Model(("l.gguf",), speculate=4), "--small http://127.0.0.1:1 is a server"),
        (Model(("s.gguf",), speculate=2), Model(("l.gguf",)), "no smaller model"),
        (Model((".",)), Model(("l.gguf",), speculate=4), "of two kinds"),
    ],
)
def test_pairs_that_can_not_speculate_are_told_why(small: Model, large: Model, said: str) -> None:
    with pytest.raises(PairError, match=said) as raised:
        draft_for(large, small)
    assert raised.value.field == "speculate"


def test_a_pair_that_is_not_asked_to_speculate_has_no_draft() -> None:
    assert draft_for(Model(("http://127.0.0.1:1",)), Model(("s.gguf",))) is None


async def test_more_tokens_than_accepted_are_refused() -> None:
    with pytest.raises(ConfigError, match="speculate is 65; accepted: a whole number from 0 to 64"):
        async with open_pair(speculate=65):
            pass
