"""Transformers in process: what it draws, its caches and turns, speculation, and llama.cpp on the same weights."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from glimprouter.config import Routing, Sampling, Side
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.errors import EngineProtocolError, EngineUnavailable, ModelError, RequestError
from glimprouter.flow.engine import Engine, Usage
from glimprouter.flow.glimpse import glimpse_of
from glimprouter.flow.request import ask
from glimprouter.pair import open_pair
from glimprouter.router import Router
from tests.engines.bigram_gguf import VOCABULARY_SIZE, chain, ids_of, uniform
from tests.engines.bigram_hf import write_bigram_hf
from tests.engines.conftest import Folders
from tests.engines.drawn import FREE, GREEDY, draw

pytest.importorskip("torch")
pytest.importorskip("transformers")

from glimprouter.engines import local_hf, local_hf_call
from glimprouter.engines.local_hf import LocalHf

MODELS = Path(local_hf.__file__).parent.parent / "models"
COIN = {piece: {b"x": 0.6, b"y": 0.3, b"z": 0.1} for piece in (b"x", b"y", b"z")}
SURE_COIN = {piece: {b"x": 0.8, b"y": 0.15, b"z": 0.05} for piece in (b"x", b"y", b"z")}
ENDLESS = {b"x": {b"x": 1.0}}
QUESTIONS = [
    f"State the final answer to the following arithmetic problem: {a} + {b} - {c} ="
    for a, b, c in [(62, 34, 58), (7, 91, 12), (40, 15, 9), (88, 11, 33), (5, 6, 7), (71, 23, 64)]
] + ["Solve the following multiplication: 41 * 74. Give only the result as your final answer."]


async def counted(engine: Engine, sampling: Sampling, tokens: int = 400) -> Counter[str]:
    return Counter((await draw(engine, ids_of(b"x"), sampling, max_tokens=tokens)).text)


async def opened(engine: Engine, question: str) -> list[int]:
    """A question with its thought opened."""
    ids = await engine.encode_prompt([{"role": "user", "content": question}])
    return ids + await engine.encode("<think>\n", special=True)


# What is drawn --------------------------------------------------------------------------------------------------------


async def test_a_whole_distribution_is_drawn_from(folders: Folders) -> None:
    drawn = await counted(await folders.open(COIN), FREE)
    assert drawn["x"] == pytest.approx(240, abs=40)
    assert drawn["y"] == pytest.approx(120, abs=40)
    assert drawn["z"] == pytest.approx(40, abs=25)


@pytest.mark.parametrize("draft", [None, SURE_COIN], ids=["alone", "with a draft"])
@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (replace(FREE, temperature=0.0), "x"),
        (replace(FREE, top_k=1), "x"),
        (replace(FREE, top_k=2), "xy"),
        (replace(FREE, top_p=0.7), "xy"),
        (replace(FREE, min_p=0.3), "xy"),
        (replace(FREE, temperature=0.5, top_p=0.9), "xy"),  # top-p after temperature: 36 : 9 : 1
        (replace(FREE, temperature=2.0), "xyz"),
    ],
    ids=str,
)
async def test_each_sampling_field_does_what_it_says(
    folders: Folders, sampling: Sampling, possible: str, draft: dict[bytes, dict[bytes, float]] | None
) -> None:
    engine = await folders.open(COIN, draft=draft, speculate=3)
    assert set(await counted(engine, sampling, 200)) == set(possible)


@pytest.mark.parametrize("draft", [None, SURE_COIN], ids=["alone", "with a draft"])
async def test_penalties_count_what_the_call_has_drawn(
    folders: Folders, draft: dict[bytes, dict[bytes, float]] | None
) -> None:
    engine = await folders.open(COIN, draft=draft, speculate=3)
    drawn = await draw(engine, ids_of(b"x"), replace(GREEDY, frequency_penalty=1.0), max_tokens=4)
    assert drawn.text == "xyxy"


async def test_log_probabilities_are_those_of_the_model_whatever_the_sampling(folders: Folders) -> None:
    engine = await folders.open(COIN)
    for sampling in (GREEDY, FREE, Sampling(temperature=3.0, top_p=0.5, top_k=2, presence_penalty=1.0)):
        for token in (await draw(engine, ids_of(b"x"), sampling, max_tokens=5, top=3)).tokens:
            assert [id_ for id_, _ in token.top] == ids_of(b"x", b"y", b"z")
            assert [math.exp(logprob) for _, logprob in token.top] == pytest.approx([0.6, 0.3, 0.1], abs=1e-5)
            assert token.logprob == dict(token.top)[token.id]


async def test_the_whole_vocabulary_may_be_seen_so_that_an_entropy_is_exact(folders: Folders) -> None:
    engine = await folders.open(COIN)
    assert (await engine.facts()).most_top == VOCABULARY_SIZE
    token = (await draw(engine, ids_of(b"x"), max_tokens=1, top=VOCABULARY_SIZE)).tokens[0]
    assert len(token.top) == VOCABULARY_SIZE
    assert sum(math.exp(logprob) for _, logprob in token.top) == pytest.approx(1, abs=1e-6)
    entropy_nats = -sum(math.exp(logprob) * logprob for _, logprob in token.top)
    assert entropy_nats == pytest.approx(-sum(p * math.log(p) for p in (0.6, 0.3, 0.1)), abs=1e-5)


async def test_a_seed_gives_the_same_tokens_again_and_another_seed_others(folders: Folders) -> None:
    engine = await folders.open(COIN)
    texts = [(await draw(engine, ids_of(b"x"), replace(FREE, seed=seed))).text for seed in (7, 7, 8, 2**63 - 1)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


# Characters of several tokens, control tokens -------------------------------------------------------------------------


async def test_tokens_within_a_character_show_it_when_it_is_complete(folders: Folders) -> None:
    pieces = (b"\xf0\x9f\x98", b"\x80", b"b", b"\xe2", b"\x82", b"\xac", b"!")
    drawn = await draw(await folders.open(chain(b"a", *pieces)), ids_of(b"a"), top=4)
    assert drawn.ids == ids_of(*pieces)
    assert [token.text for token in drawn.tokens] == ["", "😀", "b", "", "", "€", "!"]
    assert drawn.finish == "stop"


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
async def test_a_character_cut_by_the_limit_shows_nothing_and_keeps_its_ids(folders: Folders, max_tokens: int) -> None:
    pieces = (b"b", b"\xe2", b"\x82", b"\xac", b"!")
    drawn = await draw(await folders.open(chain(b"a", *pieces)), ids_of(b"a"), max_tokens=max_tokens)
    assert drawn.ids == ids_of(*pieces[:max_tokens])
    assert (drawn.text, drawn.finish) == ("b", "length")


async def test_byte_soup_keeps_ids_and_text_together(folders: Folders) -> None:
    soup = [
        bytes([byte]) for byte in (*range(97, 110), *range(0x80, 0xC0, 4), 0xBD, 0xBF, 0xC3, 0xE2, 0xE4, 0xEF, 0xF0)
    ]
    engine = await folders.open(uniform([*soup, b"\xf0\x9f\x98", b"\xf0\x9f"]))
    for seed in range(12):
        drawn = await draw(engine, ids_of(b"a"), replace(FREE, seed=seed), max_tokens=40)
        assert (len(drawn.ids), drawn.finish) == (40, "length")
        assert (await engine.decode(drawn.ids)).rstrip("\ufffd") == drawn.text.rstrip("\ufffd")


async def test_control_tokens_show_nothing_but_the_tags_of_a_thought(folders: Folders) -> None:
    engine = await folders.open(chain(b"a", b"b", b"<|im_start|>", b"</think>", b"c"))
    drawn = await draw(engine, ids_of(b"a"))
    assert (drawn.text, drawn.ids) == ("b</think>c", ids_of(b"b", b"<|im_start|>", b"</think>", b"c"))


async def test_half_a_surrogate_pair_is_the_callers_mistake(folders: Folders) -> None:
    engine = await folders.open(chain(b"a", b"b"))
    with pytest.raises(RequestError, match="surrogate"):
        await engine.encode_prompt([{"role": "user", "content": "\ud800"}])


# Caches and turns -----------------------------------------------------------------------------------------------------


async def cached_tokens(engine: Engine, ids: list[int]) -> int:
    return (await draw(engine, ids, max_tokens=1)).usage.cached_tokens


async def test_answers_that_alternate_keep_their_caches(folders: Folders) -> None:
    engine = await folders.open({b"x": {b"x": 1.0}, b"y": {b"x": 1.0}})
    first, second = ids_of(*[b"x"] * 200), ids_of(*[b"y"] * 200)
    for ids in (first, second):
        assert await cached_tokens(engine, ids) == 0
    for _ in range(3):
        for ids in (first, second):
            ids += ids_of(b"x", b"y")
            assert await cached_tokens(engine, ids) >= len(ids) - 3


async def test_of_a_prefix_that_parts_the_common_beginning_is_kept(folders: Folders) -> None:
    engine = await folders.open({b"x": {b"x": 1.0}, b"y": {b"x": 1.0}})
    await draw(engine, ids_of(*[b"x"] * 100), max_tokens=50)
    assert await cached_tokens(engine, ids_of(*[b"x"] * 120, *[b"y"] * 20)) == 120


async def test_no_more_caches_are_kept_than_agreed_and_the_oldest_goes_first(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_hf, "MOST_PLACES", 2)
    engine = await folders.open({b"x": {b"x": 1.0}})
    prefixes = [ids_of(*[piece] * 100) for piece in (b"p", b"q", b"r")]
    for ids in prefixes:
        assert await cached_tokens(engine, ids) == 0
    assert await cached_tokens(engine, prefixes[2]) == 99
    assert await cached_tokens(engine, prefixes[1]) == 99
    assert await cached_tokens(engine, prefixes[0]) == 0


async def test_streams_take_turns_token_by_token(folders: Folders) -> None:
    engine = await folders.open(ENDLESS)
    order: list[int] = []

    async def read(number: int) -> None:
        async with engine.generate(ids_of(b"x"), GREEDY, max_tokens=30, top=0, usage=Usage()) as stream:
            async for _ in stream:
                order.append(number)  # noqa: PERF401 - as they come

    await asyncio.gather(*(read(number) for number in range(3)))
    assert set(order[:9]) == {0, 1, 2}, "nobody has to wait for another's end"


async def test_more_streams_than_places_wait_for_one_that_ends(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_hf, "MOST_PLACES", 2)
    engine = await folders.open(ENDLESS)
    async with asyncio.timeout(30):
        drawn = await asyncio.gather(*(draw(engine, ids_of(b"x"), max_tokens=20) for _ in range(9)))
    assert {one.text for one in drawn} == {"x" * 20}


async def test_a_stream_left_within_a_long_prefix_reads_no_further(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_hf_call, "CHUNK_TOKENS", 1)
    engine = await folders.open(ENDLESS)
    reading = asyncio.create_task(engine.prefill(ids_of(*[b"x"] * 500)))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert 0 < await cached_tokens(engine, ids_of(*[b"x"] * 500)) < 400


async def test_a_prefix_read_in_chunks_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    ids_by_chunk = []
    for chunk_tokens in (5, 512):
        monkeypatch.setattr(local_hf_call, "CHUNK_TOKENS", chunk_tokens)
        engine = await LocalHf.open(MODELS / "tiny-small")
        ids_by_chunk.append((await draw(engine, await opened(engine, QUESTIONS[0]))).ids)
        await engine.close()
    assert ids_by_chunk[0] == ids_by_chunk[1]


async def test_a_cache_of_full_length_gives_the_same_tokens() -> None:
    """The cache of GPUs, run on a CPU: also where it goes back, and where it speculates."""
    drawn: list[list[int]] = []
    for options in ({}, {"static": True}, {"static": True, "draft": MODELS / "tiny-small", "speculate": 4}):
        engine = await LocalHf.open(MODELS / "tiny-large", context_tokens=512, **options)
        drawn += [(await draw(engine, await opened(engine, q), max_tokens=120)).ids for q in QUESTIONS[:3]]
        await engine.close()
    assert drawn[0:3] == drawn[3:6] == drawn[6:9]


async def test_a_full_context_ends_a_stream_as_too_long(folders: Folders) -> None:
    engine = await folders.open(ENDLESS, context_tokens=64)
    drawn = await draw(engine, ids_of(*[b"x"] * 60), max_tokens=100)
    assert (len(drawn.ids), drawn.finish) == (4, "length")


# Speculation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speculate", [1, 4])
async def test_speculation_leaves_the_distribution_as_it_is(folders: Folders, speculate: int) -> None:
    table = {b"x": {b"x": 0.6, b"y": 0.4}, b"y": {b"x": 0.9, b"y": 0.1}}
    draft = {b"x": {b"x": 0.85, b"y": 0.15}, b"y": {b"x": 0.8, b"y": 0.2}}
    engine = await folders.open(table, draft=draft, speculate=speculate)
    pairs: Counter[str] = Counter()
    for seed in range(6):
        drawn = await draw(engine, ids_of(b"x"), replace(FREE, seed=seed), max_tokens=400)
        pairs.update(map("".join, zip("x" + drawn.text, drawn.text, strict=False)))
        assert drawn.usage.accepted_tokens < drawn.usage.drafted_tokens
    assert pairs["xy"] / (pairs["xx"] + pairs["xy"]) == pytest.approx(0.4, abs=0.05)
    assert pairs["yy"] / (pairs["yx"] + pairs["yy"]) == pytest.approx(0.1, abs=0.04)


async def test_speculation_keeps_every_greedy_token_and_tells_what_was_accepted(folders: Folders) -> None:
    story = chain(*[bytes([byte]) for byte in range(97, 118)])
    wrong = story | {b"c": {b"z": 1.0}}
    engine = await folders.open(story, draft=wrong, speculate=4)
    drawn = await draw(engine, ids_of(b"a"), max_tokens=100, top=2)
    assert (drawn.text, drawn.finish) == ("bcdefghijklmnopqrstu", "stop")
    assert drawn.usage.generated_tokens == 20
    # bcz., of which bc; efgh; jklm; opqr; tu.
    assert (drawn.usage.drafted_tokens, drawn.usage.accepted_tokens) == (19, 17)
    for token in drawn.tokens:
        assert token.top[0][0] == token.id


async def test_a_draft_that_is_not_sure_proposes_nothing(folders: Folders) -> None:
    engine = await folders.open(ENDLESS, draft={b"x": {b"x": 0.7, b"y": 0.3}}, speculate=4)
    drawn = await draw(engine, ids_of(b"x"), max_tokens=20)
    assert (drawn.text, drawn.usage.drafted_tokens) == ("x" * 20, 0)


async def test_a_draft_with_a_shorter_context_stops_proposing(tmp_path: Path) -> None:
    large = write_bigram_hf(tmp_path / "large", ENDLESS, context_tokens=256)
    small = write_bigram_hf(tmp_path / "small", ENDLESS, context_tokens=64)
    engine = await LocalHf.open(large, draft=small, speculate=4)
    drawn = await draw(engine, ids_of(*[b"x"] * 40), max_tokens=100)
    assert len(drawn.ids) == 100
    assert 0 < drawn.usage.drafted_tokens <= 24
    assert (await draw(engine, ids_of(*[b"x"] * 100), max_tokens=100)).text == "x" * 100
    await engine.close()


async def test_the_tiny_pair_speculates_without_changing_a_token() -> None:
    alone = await LocalHf.open(MODELS / "tiny-large")
    helped = await LocalHf.open(MODELS / "tiny-large", draft=MODELS / "tiny-small", speculate=5)
    drafted = accepted = 0
    for question in QUESTIONS:
        ids = await opened(alone, question)
        drawn = await draw(helped, ids, max_tokens=150)
        assert drawn.ids == (await draw(alone, ids, max_tokens=150)).ids
        drafted, accepted = drafted + drawn.usage.drafted_tokens, accepted + drawn.usage.accepted_tokens
    assert accepted > drafted / 2
    await alone.close()
    await helped.close()


# llama.cpp on the same weights ----------------------------------------------------------------------------------------


@pytest.fixture(params=["tiny-small", "tiny-large"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[LocalHf, LocalGguf]]:
    """A shipped model twice: by transformers, and by llama.cpp in float32."""
    hf = await LocalHf.open(MODELS / request.param)
    gguf = await LocalGguf.start(MODELS / f"{request.param}.gguf", exact=True)
    yield hf, gguf
    await hf.close()
    await gguf.close()


async def test_facts_and_ids_are_those_of_llama_cpp(both: tuple[LocalHf, LocalGguf]) -> None:
    hf, gguf = both
    mine, other = await hf.facts(), await gguf.facts()
    assert (mine.model, mine.context_tokens, mine.vocabulary_size) == (
        other.model,
        other.context_tokens,
        other.vocabulary_size,
    )
    assert (mine.vocabulary, mine.chat_template) == (other.vocabulary, other.chat_template)
    for said in (QUESTIONS[0], "<think>hi</think><|im_end|> été 你好 😀"):
        assert await opened(hf, said) == await opened(gguf, said)


async def test_greedy_tokens_and_probabilities_are_those_of_llama_cpp(both: tuple[LocalHf, LocalGguf]) -> None:
    """As nearly as the file has them: its weights have 16 bits, and what they are multiplied with is rounded to as
    many. Where that tips the scales the two best tokens lie close together."""
    ties = 0
    for question in QUESTIONS:
        ids = await opened(both[0], question)
        mine, other = [await draw(engine, ids, max_tokens=120, top=20) for engine in both]
        for one, same in zip(mine.tokens, other.tokens, strict=False):
            mine_of, other_of = dict(one.top), dict(same.top)
            for id_ in mine_of.keys() & other_of.keys():
                assert math.exp(mine_of[id_]) == pytest.approx(math.exp(other_of[id_]), abs=0.01)
            assert glimpse_of(one, 640).entropy_nats == pytest.approx(glimpse_of(same, 640).entropy_nats, abs=0.02)
            if one.id != same.id:
                assert one.top[0][1] - one.top[1][1] < 0.05
                ties += 1
                break
        else:
            assert (mine.ids, mine.text, mine.finish) == (other.ids, other.text, other.finish)
    assert ties <= 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("side", ["small", "large"])
async def test_one_model_through_the_router_equals_one_direct_run(side: Side) -> None:
    routing = Routing(policy=side, answer_by=side, max_thinking_tokens=1000, max_answer_tokens=100)
    async with open_pair(str(MODELS / "tiny-small"), str(MODELS / "tiny-large")) as pair:
        engine = pair.small if side == "small" else pair.large
        for question in QUESTIONS:
            ids = await opened(engine, question)
            trace = await pair.router().answer(ask(question, routing=routing, sampling=GREEDY))
            assert trace.answer is not None
            routed = [token for step in trace.steps for token in step.ids] + trace.answer.ids
            assert routed == (await draw(engine, ids, max_tokens=1000)).ids


@pytest.mark.parametrize("speculate", [0, 4])
async def test_glimpse_writes_the_same_here_and_in_llama_cpp(speculate: int) -> None:
    routing = Routing(threshold=0.4, max_thinking_tokens=400, max_answer_tokens=50)
    folders = (str(MODELS / "tiny-small"), str(MODELS / "tiny-large"))
    async with open_pair(*folders, speculate=speculate) as here, open_pair(exact=True) as there:
        shares = []
        for question in QUESTIONS:
            request = ask(question, routing=routing, sampling=GREEDY)
            mine = await Router(here.small, here.large).answer(request)
            other = await Router(there.small, there.large).answer(request)
            assert [step.author for step in mine.steps] == [step.author for step in other.steps]
            assert [step.ids for step in mine.steps] == [step.ids for step in other.steps]
            assert mine.answer == other.answer
            assert bool(mine.large.drafted_tokens) == bool(speculate and mine.large.new_tokens)
            shares.append({step.author for step in mine.steps})
        assert {"small", "large"} in shares


# What goes wrong ------------------------------------------------------------------------------------------------------


async def test_an_id_that_the_model_lacks_is_refused_before_it_harms(folders: Folders) -> None:
    engine = await folders.open(ENDLESS)
    with pytest.raises(EngineProtocolError, match=rf"id {VOCABULARY_SIZE} is outside the vocabulary"):
        await draw(engine, [*ids_of(b"x"), VOCABULARY_SIZE])
    assert (await draw(engine, ids_of(b"x"), max_tokens=2)).text == "xx"


async def test_a_closed_engine_draws_no_more(folders: Folders) -> None:
    engine = await folders.open(ENDLESS)
    async with engine.generate(ids_of(b"x"), GREEDY, max_tokens=400, top=0, usage=Usage()) as stream:
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineUnavailable, match="closed"):
            await anext(stream)
    with pytest.raises(EngineUnavailable, match="closed"):
        await draw(engine, ids_of(b"x"))


async def test_a_pass_that_fails_is_the_engines_failure_and_leaves_no_broken_cache(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await folders.open(ENDLESS)
    network = engine._shelf.network

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    async with engine.generate(ids_of(b"x"), GREEDY, max_tokens=9, top=0, usage=Usage()) as stream:
        await anext(stream)
        monkeypatch.setattr(network, "logits", out_of_memory)
        with pytest.raises(EngineProtocolError, match="out of memory"):
            await anext(stream)
    monkeypatch.undo()
    assert (await draw(engine, ids_of(*[b"x"] * 5), max_tokens=3)).text == "xxx"


async def test_packages_that_are_missing_are_named_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_hf, "find_spec", lambda name: None)
    folder = write_bigram_hf(tmp_path / "model", ENDLESS)
    with pytest.raises(ModelError, match=r"--large .*pip install 'glimprouter\[hf\]'"):
        await LocalHf.open(folder, side="large")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", b"half a header", "could not load it"),
        ("config.json", b"{", "could not load it"),
        ("config.json", json.dumps({"model_type": "nonesuch"}).encode(), "could not load it"),
        ("tokenizer_config.json", b"{}", "chat template"),
        ("tokenizer.json", None, "tokenizer.json"),
    ],
)
async def test_a_folder_that_can_not_be_run_is_refused_with_its_reason(
    tmp_path: Path, file: str, content: bytes | None, said: str
) -> None:
    folder = write_bigram_hf(tmp_path / "model", ENDLESS)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        await LocalHf.open(folder, side="small")
