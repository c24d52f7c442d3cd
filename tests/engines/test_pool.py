"""Replicas: an answer stays where it is while it can, goes on elsewhere when it must, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimprouter.config import Model, Routing, Sampling, model_at
from glimprouter.engines import open_engine
from glimprouter.engines.breaker import Breaker, BreakerRules
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.pool import Pool
from glimprouter.engines.rendezvous import Places, ranked
from glimprouter.engines.retries import Budget, Retries
from glimprouter.engines.scripted import Line, ScriptedEngine, Vocabulary
from glimprouter.engines.servers import open_replicas
from glimprouter.errors import EngineError, EngineTimeout, EngineUnavailable, ModelError, PairError
from glimprouter.flow.engine import Session, Token, Usage
from glimprouter.flow.request import ask
from glimprouter.router import AnswerFailed, Router
from tests.engines.bigram_gguf import chain, ids_of
from tests.engines.conftest import Servers
from tests.engines.drawn import GREEDY, draw

LOW, HIGH = 0.1, 1.9
STEPS = [
    Line(f"Step {place} goes this far and no further.\n\n", HIGH if place % 3 == 1 else LOW) for place in range(12)
]


async def no_time(seconds: float) -> None:
    await asyncio.sleep(0)


class Flaky(ScriptedEngine):
    """Fails a share of its calls: before the first token, or after some."""

    def __init__(self, name: str, vocabulary: Vocabulary, chance: random.Random, share: float = 0.0) -> None:
        super().__init__(STEPS, answer="The answer is 42.", name=name, vocabulary=vocabulary)
        self.chance = chance
        self.share = share
        self.requests = self.faults = 0
        self.down = False
        self.served: Counter[str] = Counter()

    @asynccontextmanager
    async def generate(
        self, ids: Sequence[int], sampling: Sampling, **options: Any
    ) -> AsyncIterator[AsyncIterator[Token]]:
        session = options.get("session")
        self.requests += 1
        if session is not None:
            self.served[session.id] += 1
        fails = self.down or self.chance.random() < self.share
        self.faults += fails
        after = 0 if self.down else self.chance.randint(0, 12)
        if fails and after == 0:
            options["usage"].requests += 1
            raise EngineUnavailable(f"{self.name}: refused", engine=self.name)

        async def tokens(source: AsyncIterator[Token]) -> AsyncIterator[Token]:
            given = 0
            async for token in source:
                if fails and given == after:
                    raise EngineUnavailable(f"{self.name}: reset", engine=self.name)
                given += 1
                yield token

        async with super().generate(ids, sampling, **options) as source:
            yield tokens(source)


def replicas(side: str, vocabulary: Vocabulary, chance: random.Random, share: float = 0.0) -> list[Flaky]:
    return [Flaky(f"{side}-{place}", vocabulary, chance, share) for place in range(3)]


def pool_of(engines: Sequence[ScriptedEngine], **options: Any) -> Pool:
    return Pool(engines, sleep=no_time, chance=random.Random(1).random, **options)


QUESTION = ask("Why?", routing=Routing(min_step_tokens=0), sampling=GREEDY)


@pytest.mark.timeout(180)
async def test_with_one_call_in_ten_failing_999_of_1000_answers_end_with_the_text_of_a_faultless_run() -> None:
    chance, vocabulary = random.Random(7), Vocabulary()
    whole = await Router(*(Flaky(name, vocabulary, chance) for name in ("s", "l"))).answer(QUESTION)
    small, large = (replicas(side, vocabulary, chance, 0.1) for side in ("small", "large"))
    router = Router(pool_of(small), pool_of(large))
    same = failed = 0
    for _ in range(20):
        outcomes = await asyncio.gather(*(router.answer(QUESTION) for _ in range(60)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, AnswerFailed):
                failed += 1
                continue
            assert not isinstance(outcome, BaseException)
            same += (outcome.thought, outcome.answer_text) == (whole.thought, whole.answer_text)
    engines = [*small, *large]
    requests, faults = sum(one.requests for one in engines), sum(one.faults for one in engines)
    print(f"answers={same + failed} same={same} failed={failed} requests={requests} faults={faults}")  # noqa: T201
    assert faults > 0.08 * requests
    assert same >= 0.999 * 1200
    assert requests / (requests - faults) < 1.15


async def test_a_fault_in_mid_stream_loses_no_token_and_gives_none_twice() -> None:
    vocabulary, chance = Vocabulary(), random.Random(3)
    ids = await Flaky("x", vocabulary, chance).encode_prompt([{"role": "user", "content": "Why?"}])
    whole = await draw(Flaky("x", vocabulary, chance), ids)
    for seed in range(40):
        flaky = [Flaky(f"r{n}", vocabulary, random.Random(seed + n), 0.5) for n in range(2)]
        pool = pool_of(flaky, retries=Retries(attempts=50, budget_spare=1000, budget_most=1000))
        drawn = await draw(pool, ids)
        assert (drawn.ids, drawn.text, drawn.finish) == (whole.ids, whole.text, whole.finish)
        assert drawn.usage.requests == sum(one.requests for one in flaky)


async def test_all_calls_of_an_answer_go_to_one_replica_of_each_model_while_it_lives() -> None:
    vocabulary, chance = Vocabulary(), random.Random(3)
    small, large = (replicas(side, vocabulary, chance) for side in ("small", "large"))
    router = Router(pool_of(small), pool_of(large))
    traces = await asyncio.gather(*(router.answer(QUESTION) for _ in range(30)))
    for trace in traces:
        for engines in (small, large):
            assert sum(trace.id in one.served for one in engines) == 1
    assert all(one.left for one in small)


async def test_rolling_restart_ends_every_answer_and_keeps_nine_tenths_of_its_calls_together() -> None:
    vocabulary, chance = Vocabulary(), random.Random(3)
    small, large = (replicas(side, vocabulary, chance) for side in ("small", "large"))
    pools = pool_of(small, rules=BreakerRules(open_s=0.02)), pool_of(large, rules=BreakerRules(open_s=0.02))
    router = Router(*pools)

    async def restart() -> None:
        for one in [*small, *large] * 3:
            one.down = True
            await asyncio.sleep(0.05)
            one.down = False
            await asyncio.sleep(0.05)

    restarting = asyncio.create_task(restart())
    traces = []
    while not restarting.done():
        traces += await asyncio.gather(*(router.answer(QUESTION) for _ in range(10)))
    await restarting
    assert {trace.answer_text for trace in traces} == {"The answer is 42."}
    shares = [
        max(one.served[trace.id] for one in engines) / sum(one.served[trace.id] for one in engines)
        for trace in traces
        for engines in (small, large)
    ]
    assert sum(shares) / len(shares) >= 0.9


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
        key = next(f"{n}" for n in range(99) if ranked(f"{n}", ["bad", "good"])[0] == "bad")
        usage = Usage()
        async with pool.generate(
            await pool.encode("hm"), GREEDY, max_tokens=9, top=0, usage=usage, session=Session(key, 0.0)
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


async def test_an_answer_cancelled_leaves_no_task_and_no_place() -> None:
    vocabulary, chance = Vocabulary(), random.Random(3)
    small, large = (pool_of(replicas(side, vocabulary, chance)) for side in ("small", "large"))
    before = asyncio.all_tasks()
    for turns in range(1, 30):
        task = asyncio.create_task(Router(small, large).answer(QUESTION))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert sum(one.answers for pool in (small, large) for one in pool.replicas) == 0
    assert not [task for task in asyncio.all_tasks() - before if not task.done()]


# Parts ----------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.integers(1, 200))
def test_no_replica_holds_more_than_a_quarter_over_the_mean(names: list[str], answers: int) -> None:
    places = Places()
    for number in range(answers):
        places.settle(f"{number}", names)
    most = max(places.answers_on(name) for name in names)
    assert most <= 1.25 * answers / len(names) + 1


@given(st.sets(st.text(min_size=1), min_size=2, max_size=6), st.integers(0, 10**6))
def test_a_replica_that_goes_moves_only_its_own_answers(names: set[str], seed: int) -> None:
    gone = sorted(names)[seed % len(names)]
    for number in range(20):
        first = ranked(f"{number}", names)[0]
        if first != gone:
            assert ranked(f"{number}", names - {gone})[0] == first


@given(st.lists(st.sampled_from(["fail", "succeed", "wait"]), max_size=60))
def test_a_breaker_opens_only_after_enough_failures_and_always_comes_back(events: list[str]) -> None:
    now = 0.0
    rules = BreakerRules()
    breaker = Breaker(rules, clock=lambda: now, chance=lambda: 0.5)
    failures = 0
    for event in events:
        if not breaker.lets_through:
            now += rules.open_s * 2
            assert breaker.state == "half-open"
        breaker.enter()
        if event == "fail":
            failures += 1
            breaker.failed(may_open=True)
            assert breaker.state == "closed" or failures >= 1
        elif event == "succeed":
            breaker.succeeded()
            assert breaker.state == "closed"
        else:
            breaker.end_trial()
            now += 1.0
    if len(events) < rules.least_calls:
        assert breaker.state in ("closed", "half-open")
    now += rules.open_s * 2
    assert breaker.lets_through


def test_the_last_closed_breaker_stays_closed() -> None:
    breaker = Breaker(BreakerRules(), clock=lambda: 0.0, chance=lambda: 0.0)
    for _ in range(100):
        breaker.enter()
        breaker.failed(may_open=False)
    assert breaker.state == "closed"


def test_a_budget_pays_for_one_retry_in_five_calls() -> None:
    budget = Budget(Retries(budget_spare=0), clock=lambda: 0.0)
    paid = 0
    for _ in range(1000):
        budget.earn()
        paid += budget.spend()
    assert paid == pytest.approx(200, abs=2)


# Real servers ---------------------------------------------------------------------------------------------------------

STORY = (b"a", b"b", b"\xe2", b"\x82", b"\xac", b" ", b"c", b".\n\n", b"</think>", b"\n\n", b"4")


async def test_a_server_killed_in_mid_stream_is_gone_on_from_elsewhere(tmp_path: Any) -> None:
    from tests.engines.bigram_gguf import write_bigram_gguf

    path = write_bigram_gguf(tmp_path / "loop.gguf", {b"a": {b"b": 1.0}, b"b": {b"a": 1.0}}, context_tokens=100_000)
    servers = [await LocalGguf.start(path, exact=True, context_tokens=100_000) for _ in range(2)]
    for place, server in enumerate(servers):
        server.name = f"replica-{place}"
    pool = Pool(servers)
    try:
        ids, usage, text = ids_of(b"a"), Usage(), ""
        async with pool.generate(ids, GREEDY, max_tokens=4000, top=2, usage=usage, session=Session("x", 0.0)) as tokens:
            async for token in tokens:
                text += token.text
                if len(text) == 100:
                    busy = next(one for one in pool.replicas if one.answers)
                    os.kill(next(one.pid for one in servers if one.name == busy.name), signal.SIGKILL)
                if token.finish is not None:
                    assert token.finish == "length"
        assert text == "ba" * 2000
        assert usage.requests >= 2
    finally:
        await pool.close()


async def test_an_address_where_nobody_listens_yet_is_used_once_somebody_does(servers: Servers) -> None:
    up = await servers.serve(chain(*STORY), context_tokens=512)
    os.environ["GLIMPROUTER_SMALL_KEY"] = up.key or ""
    try:
        pool = await open_replicas(Model(("http://127.0.0.1:9", up.url)), side="small")
        drawn = await asyncio.gather(*(draw(pool, ids_of(b"a")) for _ in range(6)))
        assert {one.text for one in drawn} == {"b€ c.\n\n</think>\n\n4"}
        assert {one.name for one in pool.replicas} == {"http://127.0.0.1:9", up.url}
        await pool.close()
        with pytest.raises(ModelError, match="no server that can be used"):
            await open_engine(model_at("http://127.0.0.1:9, http://127.0.0.1:19"), side="small")
    finally:
        del os.environ["GLIMPROUTER_SMALL_KEY"]
