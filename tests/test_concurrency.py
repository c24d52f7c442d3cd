"""One router drives many answers at once; one that is cancelled frees both engines at once."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest

from glimprouter.config import Routing, Sampling
from glimprouter.engines.http import HttpEngine
from glimprouter.flow.request import Request, ask
from glimprouter.pair import open_pair

ANSWERS = 256
SLOTS = 8
ROUTING = Routing(max_thinking_tokens=200, max_answer_tokens=40)


def requests() -> list[Request]:
    return [
        ask(
            f"State the final answer to the following arithmetic problem: {number % 64 + 1} + {number % 64 + 9} =",
            routing=ROUTING,
            sampling=Sampling(seed=number),
        )
        for number in range(ANSWERS)
    ]


async def busy_slots(engine: HttpEngine) -> int:
    """How many answers the server is at work on, by its own word."""
    headers = {"Authorization": f"Bearer {engine.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{engine.url}/slots") as response,
    ):
        return sum(slot["is_processing"] for slot in await response.json())


@pytest.mark.timeout(180)
async def test_256_answers_at_once_all_end_and_those_cancelled_leave_the_engines_idle() -> None:
    chance = random.Random(4)
    async with open_pair(parallel=SLOTS) as pair:
        assert isinstance(pair.small, HttpEngine)
        assert isinstance(pair.large, HttpEngine)
        router = pair.router()
        tasks = [asyncio.create_task(router.answer(request)) for request in requests()]
        before = asyncio.all_tasks()
        doomed = chance.sample(tasks, ANSWERS // 4)
        for task in doomed:
            await asyncio.sleep(chance.random() * 0.02)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        ended = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert not failed
        assert len(ended) >= ANSWERS - len(doomed)
        assert all(trace.thought_end in ("closed", "end_token", "loop", "thinking_budget") for trace in ended)
        assert all(trace.answer is not None for trace in ended)
        # Within a quarter of a second nobody is at work any more, and no task of ours is left.
        async with asyncio.timeout(0.25):
            while await busy_slots(pair.small) + await busy_slots(pair.large):
                await asyncio.sleep(0.01)
        assert not [task for task in asyncio.all_tasks() - before if not task.done()]
