"""The fake tells the truth about its script, or tests that trust it prove nothing."""

from __future__ import annotations

import math

import pytest

from glimprouter.config import Routing
from glimprouter.engines.scripted import CONTROL, Call, Line, Opening, Pace, ScriptedEngine, Vocabulary, distribution
from glimprouter.errors import EngineUnavailable, PairError
from glimprouter.flow.engine import Usage
from glimprouter.flow.glimpse import glimpse_of
from glimprouter.flow.request import ask
from glimprouter.router import Router
from tests.engines.drawn import GREEDY, draw, first

STEPS = (
    Line("Add 2 and 2, as one does.\n\n"),
    Line("So x = 4, which is even.\n\n", entropy_nats=1.8),
    Line("Check it once more.\n\n"),
)
WHOLE = "".join(step.text for step in STEPS) + "</think>\n\n4"


async def writes_after(engine: ScriptedEngine, thought: str) -> str:
    ids = await engine.encode_prompt([{"role": "user", "content": "what?"}])
    return (await draw(engine, ids + await engine.encode(thought, special=True), max_tokens=500)).text


@pytest.mark.parametrize("entropy_nats", [0.001, 0.05, 0.9, 1.8, 2.99])
def test_a_distribution_has_the_entropy_asked_for(entropy_nats: float) -> None:
    probabilities = [math.exp(logprob) for _, logprob in distribution(7, entropy_nats, 20)]
    assert math.fsum(probabilities) == pytest.approx(1)
    assert -math.fsum(p * math.log(p) for p in probabilities) == pytest.approx(entropy_nats, abs=1e-6)


def test_entropy_beyond_the_tokens_shown_leaves_mass_unseen() -> None:
    shown = distribution(7, 5.0, 20)
    assert len(shown) == 20
    assert sum(math.exp(logprob) for _, logprob in shown) < 0.5


async def test_each_first_token_of_a_step_has_the_entropy_of_its_line() -> None:
    engine = ScriptedEngine(STEPS, answer="4")
    ids = await engine.encode("<|im_start|>assistant\n<think>\n" + STEPS[0].text, special=True)
    drawn = await draw(engine, ids, top=20)
    glimpses = [glimpse_of(token, Vocabulary.size).entropy_nats for token in drawn.tokens]
    assert glimpses[0] == pytest.approx(1.8)
    assert max(glimpses[1:]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("thought", "rest"),
    [
        ("", "<think>\n" + WHOLE),
        ("<think>\n", WHOLE),
        ("<think>\nAdd 2", WHOLE[5:]),
        ("<think>\nSomebody else wrote this.\n\n", WHOLE[len(STEPS[0].text) :]),
        ("<think>\nMuch more than the script would have said at this place.", "\n\n" + WHOLE[len(STEPS[0].text) :]),
        ("<think>\na\n\nb\n\nc\n\n", "</think>\n\n4"),
        ("<think>\na</think>", "\n\n4"),
        ("<think>\na</think>\n\n4", ""),
    ],
)
async def test_it_goes_on_where_the_thought_stands_whoever_wrote_it(thought: str, rest: str) -> None:
    assert await writes_after(ScriptedEngine(STEPS, answer="4"), thought) == rest


async def test_a_line_with_blank_lines_is_one_step() -> None:
    fenced = "```\na\n\nb\n```\n\n"
    engine = ScriptedEngine([fenced, "After.\n\n"])
    assert await writes_after(engine, "<think>\n```\na\n\n") == "b\n```\n\nAfter.\n\n</think>\n\nDone."
    assert await writes_after(engine, "<think>\n" + fenced) == "After.\n\n</think>\n\nDone."


async def test_a_function_decides_from_all_that_was_written() -> None:
    engine = ScriptedEngine(lambda written: "" if len(written) >= 6 else f"{len(written)},")
    assert await writes_after(engine, "") == "0,2,4,"


async def test_vocabularies_are_shared_only_on_purpose() -> None:
    shared, other = Vocabulary(), Vocabulary(first_id=5000)
    engines = [ScriptedEngine([], vocabulary=vocabulary) for vocabulary in (shared, shared, other)]
    names = [(await engine.facts()).vocabulary for engine in engines]
    assert names[0] == names[1] != names[2]
    ids = [await engine.encode("So x.\n\n") for engine in engines]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])


async def test_a_full_stop_before_a_blank_line_is_one_token() -> None:
    engine = ScriptedEngine([])
    assert [await engine.decode([id_]) for id_ in await engine.encode("So x = 4.\n\nNow")] == [
        *("So", " x", " ", "=", " 4", ".\n\n", "Now")
    ]


@pytest.mark.parametrize(("opening", "end"), [("model", "assistant\n"), ("template", "<think>\n"), ("closed", "\n\n")])
async def test_templates_differ_in_who_opens_the_thought(opening: Opening, end: str) -> None:
    engine = ScriptedEngine([], opening=opening)
    text = await engine.decode(await engine.encode_prompt([{"role": "user", "content": "".join(CONTROL)}]))
    assert text.endswith(end)


async def test_every_call_is_noted_as_it_was_made() -> None:
    engine = ScriptedEngine(["Hm.\n\n"])
    ids = await engine.encode("<think>\n", special=True)
    await engine.prefill(ids)
    await draw(engine, ids, max_tokens=2, top=5)
    await first(engine, ids)
    assert engine.calls == [
        Call("prefill", tuple(ids)),
        Call("generate", tuple(ids), GREEDY, max_tokens=2, top=5, taken=2),
        Call("generate", tuple(ids), GREEDY, max_tokens=400, taken=1, closed_early=True),
    ]


async def test_time_passes_as_the_pace_says() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    engine = ScriptedEngine(["a b"], pace=Pace(first_token_ms=100, token_ms=10, prefill_token_ms=1), sleep=sleep)
    ids = await engine.encode("<think>\n", special=True)
    await draw(engine, ids, max_tokens=3)
    assert slept == [0.1, pytest.approx(0.001 * len(ids)), 0.01, 0.01]
    slept.clear()
    await draw(engine, ids, max_tokens=1)
    assert slept == [0.1, pytest.approx(0.001)]


async def test_it_fails_after_as_many_tokens_as_asked_and_can_be_mended() -> None:
    engine = ScriptedEngine(["a b c d"], fail_after_tokens=2)
    ids = await engine.encode("<think>\n", special=True)
    async with engine.generate(ids, GREEDY, max_tokens=9, top=0, usage=Usage()) as stream:
        assert [(await anext(stream)).text, (await anext(stream)).text] == ["a", " b"]
        with pytest.raises(EngineUnavailable):
            await anext(stream)
    with pytest.raises(EngineUnavailable):
        await engine.prefill(ids)
    engine.fail_after_tokens = None
    assert (await draw(engine, ids, max_tokens=2)).text == "a b"


async def test_a_pair_of_them_is_routed() -> None:
    vocabulary = Vocabulary()
    steps = [f"LARGE step {place}, it says.\n\n" for place in range(3)]
    small = ScriptedEngine(STEPS, answer="4", vocabulary=vocabulary)
    large = ScriptedEngine(steps, answer="four", vocabulary=vocabulary)
    trace = await Router(small, large).answer(ask("what?", routing=Routing(threshold=0.9)))
    assert [step.author for step in trace.steps] == ["small", "large", "small", "small"]
    assert trace.steps[1].text == steps[1]
    assert trace.answer is not None
    assert trace.answer.text == "four"


async def test_a_template_that_closes_the_thought_is_refused_as_a_pair() -> None:
    with pytest.raises(PairError, match="closes the thought"):
        await Router(ScriptedEngine([], opening="closed"), ScriptedEngine([])).answer(ask("what?"))
