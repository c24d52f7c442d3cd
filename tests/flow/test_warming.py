"""The idle model is kept warm, within bounds; the large model's stream runs on while small glimpses, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from glimprouter.config import Routing
from glimprouter.engines.scripted import Line, Pace, ScriptedEngine, Vocabulary
from glimprouter.flow.answer import Text
from glimprouter.flow.engine import Session
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.router import Router

LOW, HIGH = 0.1, 1.9


async def turn(seconds: float) -> None:
    """Every token takes one turn of the event loop."""
    await asyncio.sleep(0)


class Engine(ScriptedEngine):
    """Its prefills take a number of turns of the event loop; it counts those under way and those dropped."""

    def __init__(self, script: Sequence[Line], vocabulary: Vocabulary, *, prefill_turns: int = 0) -> None:
        super().__init__(script, vocabulary=vocabulary, answer="42", pace=Pace(token_ms=1), sleep=turn)
        self.prefill_turns = prefill_turns
        self.under_way = self.most_under_way = self.dropped = 0

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(self.prefill_turns):
                await asyncio.sleep(0)
            await super().prefill(ids, session=session)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.under_way -= 1

    @property
    def warmed(self) -> list[int]:
        return [len(call.ids) for call in self.calls if call.kind == "prefill"]


def step(tokens: int, entropy_nats: float = LOW) -> Line:
    return Line(" word" * (tokens - 1) + ".\n\n", entropy_nats)


async def answered(small: ScriptedEngine, large: ScriptedEngine, **routing: Any) -> Trace:
    trace = await Router(small, large).answer(ask("Why?", routing=Routing(**{"min_step_tokens": 0} | routing)))
    assert trace.thought.count("word") == sum(line.text.count("word") for line in SCRIPT)
    return trace


SCRIPT = [step(200), step(50), step(10, HIGH), step(120, HIGH), step(30), step(90)]


def pair(**options: Any) -> tuple[Engine, Engine]:
    vocabulary = Vocabulary()
    return Engine(SCRIPT, vocabulary, **options), Engine(SCRIPT, vocabulary, **options)


async def test_an_engine_at_which_others_write_is_not_warmed_unless_it_is_allowed() -> None:
    for beside, may_warm in ((0, False), (1, True)):
        small, large = pair()
        router = Router(small, large)
        other = ask("And?", routing=Routing(policy="large", warm=False))
        async with aclosing(router.stream(other)) as events:
            while not isinstance(await anext(events), Text):
                pass
            await router.answer(ask("Why?", routing=Routing(min_step_tokens=0, warm_beside_calls=beside)))
        assert bool(large.warmed) == may_warm
        large.calls.clear()
        await router.answer(ask("Why?", routing=Routing(min_step_tokens=0, warm_beside_calls=beside)))
        assert large.warmed  # the other's stream is closed


async def test_answers_that_begin_together_do_not_all_have_their_questions_read_ahead() -> None:
    small, large = pair(prefill_turns=50)
    router = Router(small, large)
    await asyncio.gather(*(router.answer(ask(f"Why {number}?")) for number in range(8)))
    assert large.most_under_way == 1


async def test_idle_model_reads_along_within_a_long_step() -> None:
    small, large = pair()
    trace = await answered(small, large, warm_every_tokens=48)
    within_first_step = [ids for ids in large.warmed if ids < len(SCRIPT[0].text.split()) + 30]
    assert len(within_first_step) > 3
    assert trace.large.prompt_tokens - trace.large.cached_tokens < 3 * 48


async def test_without_portions_it_reads_after_steps_only() -> None:
    small, large = pair()
    await answered(small, large, warm_every_tokens=0)
    assert len(large.warmed) <= len(SCRIPT) + 1


async def test_a_step_is_read_whole_by_a_model_that_must_encode_its_text() -> None:
    small, large = Engine(SCRIPT, Vocabulary()), Engine(SCRIPT, Vocabulary(50_000))
    await answered(small, large, warm_every_tokens=8)
    assert len(large.warmed) <= len(SCRIPT) + 1


async def test_text_is_the_same_however_the_idle_model_reads() -> None:
    texts = set()
    for warm, every_tokens, turns in ((False, 0, 0), (True, 0, 3), (True, 1, 0), (True, 7, 2), (True, 16, 50)):
        small, large = pair(prefill_turns=turns)
        trace = await answered(small, large, warm=warm, warm_every_tokens=every_tokens)
        texts.add((trace.thought, trace.answer_text, "".join(step.author for step in trace.steps)))
    assert len(texts) == 1


async def test_one_request_at_most_is_under_way_and_a_slow_engine_is_asked_less() -> None:
    quick, slow = pair(prefill_turns=0), pair(prefill_turns=60)
    await answered(*quick, warm_every_tokens=8)
    await answered(*slow, warm_every_tokens=8)
    assert max(engine.most_under_way for engine in (*quick, *slow)) == 1
    assert len(slow[1].warmed) < len(quick[1].warmed) / 3


async def test_hand_over_drops_a_small_warming_under_way_and_waits_for_a_large_one() -> None:
    small, large = pair(prefill_turns=10_000)
    trace = await answered(small, large, warm_every_tokens=0)
    # The question and the long first step are worth the wait; afterwards there is little to read.
    assert large.dropped + small.dropped > 0
    assert trace.error is None
    assert large.under_way == small.under_way == 0


@pytest.mark.parametrize("overlap", [True, False])
async def test_stream_of_large_runs_on_while_small_glimpses_unless_switched_off(overlap: bool) -> None:
    small, large = pair()
    trace = await answered(small, large, overlap=overlap, warm=False)
    authors = "".join(step.author[0] for step in trace.steps)
    assert "ll" in authors
    runs = sum(b == "l" != a for a, b in zip("s" + authors, authors, strict=False))
    assert trace.large.calls == (runs if overlap else authors.count("l")) + 1


async def test_each_answer_is_left_once_by_both_engines_and_every_call_says_whose_it_is() -> None:
    small, large = pair()
    trace = await answered(small, large)
    assert small.left == large.left == [trace.id]
    sessions = {call.session for engine in (small, large) for call in engine.calls}
    assert sessions == {Session(trace.id, trace.created_unix_s)}
