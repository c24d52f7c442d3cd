"""What only a real vLLM shows: how it dies, how it lets go, what it keeps."""

from __future__ import annotations

import asyncio
import re
import signal
import time
import urllib.request
from collections.abc import Callable

import pytest

from glimprouter.config import Routing, Sampling, model_at
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.engines.servers import open_replicas, open_server
from glimprouter.errors import EngineError
from glimprouter.flow.engine import Session, Usage
from glimprouter.flow.request import ask
from glimprouter.pair import Pair
from tests.vllm.server import VllmServer

GREEDY = Sampling(temperature=0.0)
FREE = Sampling(temperature=1.0, top_p=1.0)
QUICK = Timeouts(connect_s=2.0, first_token_s=10.0, between_tokens_s=1.5)


def gauge(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))


async def long_stream(engine: HttpEngine, stop_after: int, act: Callable[[], None]) -> str:
    """Reads a long stream and does something to its server in the middle."""
    ids = await engine.encode_prompt([{"role": "user", "content": "Solve for x: 7*x + 5 = 61"}])
    text = ""
    async with engine.generate(ids, FREE, max_tokens=1800, top=5, usage=Usage()) as tokens:
        count = 0
        async for token in tokens:
            text += token.text
            count += 1
            if count == stop_after:
                act()
            if token.finish is not None:
                return token.finish
    return text


async def many_streams(engine: HttpEngine, act: Callable[[], None]) -> None:
    """An end token drawn before the server is hit proves nothing: again, until it shows."""
    for _ in range(20):
        await long_stream(engine, 3, act)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_dies_in_mid_stream_is_an_error_and_never_an_end(
    lone_server: VllmServer, how: signal.Signals
) -> None:
    engine = await open_server(lone_server.url, model_at(lone_server.url), side="small", timeouts=QUICK)
    try:
        with pytest.raises(EngineError):
            await many_streams(engine, lambda: lone_server.process.send_signal(how))
    finally:
        await engine.close()


@pytest.mark.timeout(420)
async def test_an_answer_goes_on_when_one_of_two_replicas_is_killed(
    lone_server: VllmServer, vllm_urls: list[str]
) -> None:
    engines = [
        await open_server(url, model_at(url), side="small", timeouts=QUICK) for url in (lone_server.url, vllm_urls[0])
    ]
    pool = await open_replicas(model_at(f"{lone_server.url},{vllm_urls[0]}"), side="small", timeouts=QUICK)
    try:
        ids = await pool.encode_prompt([{"role": "user", "content": "Solve for x: 7*x + 5 = 61"}])
        async with engines[1].generate(ids, GREEDY, max_tokens=200, top=0, usage=Usage()) as tokens:
            whole = [token.id async for token in tokens if token.id >= 0]
        for number in range(100):  # a session whose place is on the server that will die
            session, drawn, busy = Session(f"{number}", time.time()), list[int](), ""
            async with pool.generate(ids, GREEDY, max_tokens=200, top=0, usage=Usage(), session=session) as tokens:
                async for token in tokens:
                    if token.id >= 0:
                        drawn.append(token.id)
                    busy = busy or next(one.name for one in pool.replicas if one.answers)
                    if len(drawn) == 5 and busy == lone_server.url:
                        lone_server.process.kill()
            pool.leave(session)
            assert drawn == whole
            if busy == lone_server.url:
                break
        else:
            raise AssertionError("no session had its place there")
    finally:
        await pool.close()
        for engine in engines:
            await engine.close()


@pytest.mark.timeout(420)
async def test_cancelling_an_answer_frees_both_servers(vllm_pair: Pair, vllm_urls: list[str]) -> None:
    routing = Routing(threshold=0.1, max_thinking_tokens=1500)
    tasks = [
        asyncio.create_task(vllm_pair.router().answer(ask(f"Solve for x: {n}*x + 5 = 61", routing=routing)))
        for n in range(2, 10)
    ]
    await asyncio.sleep(0.4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.5)
    for url in vllm_urls:
        assert gauge(url, "vllm:num_requests_running") == 0
        assert gauge(url, "vllm:num_requests_waiting") == 0


@pytest.mark.timeout(420)
async def test_what_was_read_before_is_cached_in_whole_blocks(vllm_pair: Pair) -> None:
    engine = vllm_pair.small
    ids = (await engine.encode("Solve for x: 7*x + 5 = 61. "))[:20] * 20
    await engine.prefill(ids)
    usage = Usage()
    async with engine.generate(ids, GREEDY, max_tokens=1, top=0, usage=usage) as tokens:
        _ = [token async for token in tokens]
    assert usage.cached_tokens >= len(ids) - 1 - 2 * (await engine.facts()).cache_block_tokens
