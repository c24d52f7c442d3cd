"""One call to a pool of replicas: where it goes, what it costs, how it goes on, when it is given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from glimprouter.config import Model, Sampling
from glimprouter.engines import open_engine
from glimprouter.engines.breaker import BreakerRules
from glimprouter.engines.pool import Pool
from glimprouter.engines.rendezvous import ranked
from glimprouter.engines.retries import Retries
from glimprouter.engines.scripted import ScriptedEngine, Vocabulary
from glimprouter.errors import ContextError, EngineError, EngineTimeout, EngineUnavailable, ModelError, PairError
from glimprouter.flow.engine import EngineFacts, Session, Token, Usage
from tests.engines.drawn import GREEDY, draw


async def no_time(seconds: float) -> None:
    await asyncio.sleep(0)


def pool_of(engines: Sequence[ScriptedEngine], **options: Any) -> Pool:
    return Pool(engines, **{"sleep": no_time, "chance": random.Random(1).random} | options)


class Failing(ScriptedEngine):
    """Every call fails as it is told, until it is told otherwise."""

    error: EngineError | None = None
    asked = 0

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        async with super().generate(ids, sampling, **options) as tokens:
            yield tokens


def failing(name: str, error: EngineError | None, vocabulary: Vocabulary) -> Failing:
    engine = Failing(["One.\n\n"], answer="1", name=name, vocabulary=vocabulary)
    engine.error = error
    return engine


async def test_what_would_fail_anywhere_is_asked_once() -> None:
    vocabulary = Vocabulary()
    engines = [failing(name, EngineUnavailable("no such field", final=True), vocabulary) for name in "ab"]
    pool = pool_of(engines)
    with pytest.raises(EngineUnavailable, match="no such field"):
        await draw(pool, await pool.encode("hm"))
    assert sum(one.asked for one in engines) == 1


async def test_a_silent_replica_is_left_at_once_and_a_refusing_one_after_a_second_try() -> None:
    for error, tries in ((EngineTimeout("silence"), 1), (EngineUnavailable("refused"), 2)):
        vocabulary = Vocabulary()
        bad, good = failing("bad", error, vocabulary), failing("good", None, vocabulary)
        pool = pool_of([bad, good])
        usage = Usage()
        async with pool.generate(
            await pool.encode("hm"), GREEDY, max_tokens=9, top=0, usage=usage, session=key_of("bad", "good")
        ) as tokens:
            assert (await anext(tokens)).text
        assert (bad.asked, good.asked) == (tries, 1)


async def test_retry_after_is_waited_for_where_nobody_else_is_there_and_refused_where_it_is_too_long() -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        alone.error = None

    clock = iter(range(10**6))
    alone = failing("alone", EngineUnavailable("busy", retry_after_s=7.0), Vocabulary())
    pool = Pool([alone], sleep=sleep, clock=lambda: next(clock) * 1e-3)
    assert (await draw(pool, await pool.encode("hm"))).finish == "stop"
    assert max(waited) == pytest.approx(7.0, abs=0.1)
    alone.error = EngineUnavailable("busy", retry_after_s=3600.0)
    with pytest.raises(EngineUnavailable, match="busy"):
        await draw(pool, await pool.encode("hm"))


async def test_retries_end_when_their_budget_is_spent() -> None:
    down = failing("down", EngineUnavailable("gone"), Vocabulary())
    pool = pool_of([down], retries=Retries(attempts=5, budget_spare=8), clock=lambda: 0.0)
    ids = await pool.encode("hm")
    for _ in range(50):
        with pytest.raises(EngineUnavailable, match="gone"):
            await draw(pool, ids)
    assert down.asked < 50 + 8 + 0.3 * 62


async def test_replicas_of_different_models_are_refused_by_name() -> None:
    pool = pool_of([failing("a", None, Vocabulary()), failing("b", None, Vocabulary(50_000))])
    with pytest.raises(PairError, match=r"b serves b, whose vocabulary is not that of a"):
        await pool.facts()


def test_an_address_given_twice_is_refused() -> None:
    with pytest.raises(PairError, match="given twice"):
        pool_of([failing("a", None, Vocabulary()), failing("a", None, Vocabulary())])


def key_of(name: str, *others: str) -> Session:
    """An answer whose place is there."""
    return Session(next(f"{n}" for n in range(99) if ranked(f"{n}", [name, *others])[0] == name), 0.0)


Leg = list[Token | EngineError | ContextError]


class Legs(ScriptedEngine):
    """Says in each call what it is told, token by token, or fails with what stands in their place."""

    def __init__(self, name: str, *legs: Leg) -> None:
        super().__init__([], name=name)
        self.legs = list(legs)
        self.seen: list[tuple[list[int], int, int]] = []

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        self.seen.append((list(ids), max_tokens, sampling.seed))
        usage.add(Usage(prompt_tokens=len(ids), cached_tokens=1, requests=1, drafted_tokens=4, accepted_tokens=3))

        async def tokens() -> AsyncIterator[Token]:
            for one in self.legs.pop(0):
                if not isinstance(one, Token):
                    raise one
                usage.generated_tokens += one.id >= 0
                yield one

        yield tokens()


GONE = EngineUnavailable("gone")
END = Token(-1, "", finish="stop")


async def test_a_leg_never_begins_within_a_character() -> None:
    engine = Legs(
        "a",
        [Token(7, "x"), Token(226, ""), Token(130, ""), GONE],
        [Token(226, ""), Token(130, ""), Token(172, "€"), END],
    )
    drawn = await draw(pool_of([engine]), [1], max_tokens=9)
    assert (drawn.ids, drawn.text, drawn.finish) == ([7, 226, 130, 172], "x€", "stop")
    assert [(ids, most) for ids, most, _ in engine.seen] == [([1], 9), ([1, 7], 8)]


async def test_what_was_drawn_within_a_character_is_handed_out_where_the_limit_cuts_it() -> None:
    drawn = await draw(pool_of([Legs("a", [Token(7, "x"), Token(226, ""), Token(-1, "", finish="length")])]), [1])
    assert (drawn.ids, drawn.finish) == ([7, 226], "length")


async def test_the_cost_of_a_call_is_that_of_all_its_legs() -> None:
    engine = Legs("a", [Token(7, "x"), Token(226, ""), GONE], [GONE], [Token(8, "y"), END])
    usage = (await draw(pool_of([engine]), [1])).usage
    assert usage == Usage(
        prompt_tokens=1 + 2 + 2,
        cached_tokens=3,
        generated_tokens=3,
        requests=3,
        drafted_tokens=12,
        accepted_tokens=9,
    )


async def test_a_continuation_has_another_seed_and_a_mere_repetition_the_same() -> None:
    engine = Legs("a", [GONE], [Token(7, "x"), GONE], [END])
    await draw(pool_of([engine]), [1], Sampling(temperature=1.0, seed=5))
    assert [seed for _, _, seed in engine.seen] == [5, 5, 6]


@pytest.mark.parametrize("error", [GONE, ContextError("full")])
async def test_a_stream_that_breaks_with_all_its_tokens_drawn_or_its_context_full_was_cut(
    error: EngineError | ContextError,
) -> None:
    legs: list[Leg] = [[Token(7, "x"), Token(8, "y"), error]]
    if isinstance(error, ContextError):
        legs = [[Token(7, "x"), Token(8, "y"), GONE], [error]]
    drawn = await draw(pool_of([Legs("a", *legs)]), [1], max_tokens=2 if error is GONE else 9)
    assert (drawn.ids, drawn.finish) == ([7, 8], "length")


async def test_a_prompt_over_the_context_is_refused_and_counts_against_nobody() -> None:
    pool = pool_of([Legs("a", [ContextError("full")])])
    with pytest.raises(ContextError, match="full"):
        await draw(pool, [1])
    assert pool.replicas[0].failed == 0


async def test_a_stream_that_ends_without_saying_why_is_gone_on_with() -> None:
    assert (await draw(pool_of([Legs("a", [Token(7, "x")], [END])]), [1])).ids == [7]


async def test_a_stream_that_gets_on_is_given_up_only_after_many_failures() -> None:
    legs: list[Leg] = [[Token(7, "x"), GONE] for _ in range(60)]
    engine = Legs("a", *legs)
    with pytest.raises(EngineUnavailable, match="gone"):
        await draw(pool_of([engine], retries=Retries(budget_spare=99)), [1], max_tokens=500)
    assert len(engine.seen) == Retries().most_failures


async def test_calls_under_way_fail_when_the_pool_is_closed() -> None:
    engine = Legs("a", [Token(7, "x"), GONE], [END])
    pool = pool_of([engine])
    async with pool.generate([1], GREEDY, max_tokens=9, top=0, usage=Usage()) as tokens:
        await anext(tokens)
        await pool.close()
        with pytest.raises(EngineUnavailable, match="gone"):
            await anext(tokens)
    assert engine.closed
    assert (await draw(pool, [1])).finish == "stop"


async def test_a_trial_ends_with_the_first_token() -> None:
    now = 0.0
    vocabulary = Vocabulary()
    bad, good = failing("bad", EngineUnavailable("gone"), vocabulary), failing("good", None, vocabulary)
    rules = BreakerRules(least_calls=1, open_s=10.0)
    pool = pool_of([bad, good], rules=rules, clock=lambda: now)
    ids, session = await pool.encode("hm"), key_of("bad", "good")
    await draw(pool, ids)
    while pool.replicas[0].breaker == "closed":
        async with pool.generate(ids, GREEDY, max_tokens=9, top=0, usage=Usage(), session=session) as tokens:
            await anext(tokens)
        pool.leave(session)
    assert [one.breaker for one in pool.replicas] == ["open", "closed"]
    now, bad.error = 20.0, None
    async with pool.generate(ids, GREEDY, max_tokens=9, top=0, usage=Usage(), session=session) as tokens:
        await anext(tokens)
        assert [one.breaker for one in pool.replicas] == ["closed", "closed"]


async def test_a_warming_goes_to_the_answers_replica_once_and_its_failure_counts_against_nobody() -> None:
    class Cold(ScriptedEngine):
        asked = 0

        async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
            self.asked += 1
            raise EngineUnavailable("cold")

    vocabulary = Vocabulary()
    engines = [Cold(["One.\n\n"], name=name, vocabulary=vocabulary) for name in "abc"]
    pool = pool_of(engines)
    for _ in range(30):
        with pytest.raises(EngineUnavailable, match="cold"):
            await pool.prefill([1, 2], session=key_of("b", "a", "c"))
    assert [one.asked for one in engines] == [0, 30, 0]
    assert {(one.breaker, one.failed) for one in pool.replicas} == {("closed", 0)}


# Replicas that are away, or others ------------------------------------------------------------------------------------


class Away(Failing):
    """Down, hanging, or another model, until it is told otherwise."""

    trouble: EngineError | asyncio.Event | EngineFacts | None = None

    async def facts(self) -> EngineFacts:
        if isinstance(self.trouble, EngineError):
            raise self.trouble
        if isinstance(self.trouble, asyncio.Event):
            await self.trouble.wait()
        if isinstance(self.trouble, EngineFacts):
            return self.trouble
        return await super().facts()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_replica_that_was_away_is_used_once_it_has_proved_the_same() -> None:
    now = 0.0
    vocabulary = Vocabulary()
    up, away = (Away(["One.\n\n"], answer="1", name=name, vocabulary=vocabulary) for name in ("up", "away"))
    away.trouble = EngineUnavailable("away: refused")
    pool = pool_of([up, away], clock=lambda: now)
    ids = await pool.encode("hm")
    assert pool.replicas[1].unused_because == "away: refused"
    away.trouble = await failing("away", None, Vocabulary(70_000)).facts()
    for now in (20.0, 40.0):  # noqa: B007 - the clock reads it
        await draw(pool, ids)
        await settled()
    assert "away serves away, whose vocabulary is not that of up" in pool.replicas[1].unused_because
    assert away.asked == 0
    away.trouble = None
    for now in (60.0, 61.0):  # noqa: B007
        await asyncio.gather(*(draw(pool, ids) for _ in range(8)))
        await settled()
    assert pool.replicas[1].unused_because == ""
    assert away.asked > 0


async def test_nobody_waits_for_a_replica_that_hangs_and_closing_leaves_no_task() -> None:
    now = 0.0
    vocabulary = Vocabulary()
    up, away = (Away(["One.\n\n"], answer="1", name=name, vocabulary=vocabulary) for name in ("up", "away"))
    away.trouble = EngineUnavailable("away: refused")
    pool = pool_of([up, away], clock=lambda: now)
    ids = await pool.encode("hm")
    before = asyncio.all_tasks()
    now, away.trouble = 20.0, asyncio.Event()
    async with asyncio.timeout(5):
        for _ in range(20):
            await draw(pool, ids)
    assert up.asked == 20
    await pool.close()
    assert asyncio.all_tasks() == before


async def test_a_replica_with_a_smaller_context_is_not_used_once_the_larger_was_told() -> None:
    now = 0.0
    up, away = (Away([], name=name, context_tokens=size) for name, size in (("up", 2000), ("away", 1000)))
    away.trouble = EngineUnavailable("away: refused")
    pool = pool_of([up, away], clock=lambda: now)
    await pool.facts()
    now, away.trouble = 20.0, None
    await pool.encode("hm")
    await settled()
    assert "with a context of 1000, the replicas beside it with 2000" in pool.replicas[1].unused_because
    both = pool_of([Away([], name=name, context_tokens=size) for name, size in (("a", 2000), ("b", 1000))])
    assert (await both.facts()).context_tokens == 1000


async def test_where_no_replica_is_up_the_pool_says_why() -> None:
    engines = [Away([], name=name) for name in "ab"]
    for one in engines:
        one.trouble = EngineUnavailable(f"{one.name}: refused")
    with pytest.raises(EngineUnavailable, match="a: refused"):
        await pool_of(engines).facts()


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (("a.gguf", "b.gguf"), "replicas are servers"),
        (("http://127.0.0.1:9", "b.gguf"), "b.gguf stands among addresses"),
    ],
)
async def test_files_are_no_replicas(at: tuple[str, ...], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        await open_engine(Model(at), side="small")
