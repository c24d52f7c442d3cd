"""Replicas: an answer stays where it is while it can, goes on elsewhere when it must, and nobody notices."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from glimprouter.config import Routing, Sampling
from glimprouter.engines.breaker import BreakerRules
from glimprouter.engines.pool import Pool
from glimprouter.engines.retries import Retries
from glimprouter.engines.scripted import Line, Pace, ScriptedEngine, Vocabulary
from glimprouter.errors import EngineUnavailable
from glimprouter.flow.engine import Token
from glimprouter.flow.request import ask
from glimprouter.router import AnswerFailed, Router
from tests.engines.drawn import GREEDY, draw

LOW, HIGH = 0.1, 1.9
STEPS = [
    Line(f"Step {place} goes this far and no further.\n\n", HIGH if place % 3 == 1 else LOW) for place in range(12)
]


async def no_time(seconds: float) -> None:
    await asyncio.sleep(0)


class Flaky(ScriptedEngine):
    """Fails a share of its calls, before the first token or after some; while it is down, also those under way."""

    def __init__(
        self, name: str, vocabulary: Vocabulary, chance: random.Random, share: float = 0.0, pace: Pace | None = None
    ) -> None:
        super().__init__(STEPS, answer="The answer is 42.", name=name, vocabulary=vocabulary, pace=pace)
        self.chance = chance
        self.share = share
        self.requests = self.faults = self.broken = 0
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
                if self.down or (fails and given == after):
                    self.broken += 1
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


@pytest.mark.timeout(180)
async def test_a_replica_that_dies_under_two_hundred_answers_ends_none_of_them() -> None:
    """More break at once than the budget pays for: they wait for their turn at the replica that is well."""
    vocabulary, chance = Vocabulary(), random.Random(3)
    pace = Pace(token_ms=2.0)
    small, large = ([Flaky(f"{side}{place}", vocabulary, chance, pace=pace) for place in range(2)] for side in "sl")
    poor = Retries(budget_spare=5, budget_most=5)
    router = Router(Pool(small, retries=poor), Pool(large, retries=poor))
    answers = [asyncio.create_task(router.answer(QUESTION)) for _ in range(200)]
    while sum(one.requests for one in small) < 200:
        await asyncio.sleep(0.01)
    dead = small[0]
    dead.down = True
    traces = await asyncio.gather(*answers)
    assert {trace.answer_text for trace in traces} == {"The answer is 42."}
    assert dead.broken >= 20


async def test_replicas_hold_no_more_than_a_quarter_over_their_share_of_the_answers_under_way() -> None:
    vocabulary, chance = Vocabulary(), random.Random(3)
    small, large = (pool_of(replicas(side, vocabulary, chance)) for side in ("small", "large"))
    router = Router(small, large)
    tasks = [asyncio.create_task(router.answer(QUESTION)) for _ in range(60)]
    most = 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        most = max(most, *(one.answers for one in (*small.replicas, *large.replicas)))
    assert 20 <= most <= 25
    assert sum(one.answers for one in (*small.replicas, *large.replicas)) == 0
