"""Pools of real servers, and of real servers behind a proxy that spoils what they say."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from benchmarks.faults import Judge, killed_answer, questions, random_faults, serve
from benchmarks.faulty_proxy import Spoil, faulty_proxy
from glimprouter.config import SIDES, Model, model_at
from glimprouter.engines import open_engine
from glimprouter.engines.breaker import BreakerRules
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.pool import Pool
from glimprouter.engines.rendezvous import ranked
from glimprouter.engines.retries import Retries
from glimprouter.engines.servers import open_replicas
from glimprouter.errors import ModelError, PairError
from glimprouter.flow.engine import Session, Token, Usage
from tests.engines.bigram_gguf import chain, ids_of, write_bigram_gguf
from tests.engines.conftest import Fakes, Servers
from tests.engines.drawn import GREEDY, draw
from tests.engines.fake_model import Bigram
from tests.engines.fake_openai import openai_app
from tests.engines.test_http_faults import Wire, mock

STORY_PIECES = (b"a", b"b", b"\xe2", b"\x82", b"\xac", b" ", b"c", b".\n\n", b"</think>", b"\n\n", b"4")
STORY = "b€ c.\n\n</think>\n\n4"
STREAMED = ("/completion", "/v1/completions", "/v1/chat/completions", "/generate")
PATIENT = Retries(attempts=99, budget_spare=1e6, budget_most=1e6, base_s=0.0)
UNBROKEN = BreakerRules(least_calls=10**6, most_calls=10**6)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["llamacpp", "vllm", "sglang", "openai"])
async def test_a_reply_reset_at_any_of_its_bytes_loses_no_token_and_gives_none_twice(
    kind: str, servers: Servers, fakes: Fakes
) -> None:
    table = chain(*STORY_PIECES)
    model = Bigram(table)
    kinds: dict[str, Callable[[], Awaitable[HttpEngine]]] = {
        "llamacpp": lambda: _address(servers),
        "vllm": lambda: fakes.vllm(model),
        "sglang": lambda: fakes.sglang(model),
        "openai": lambda: fakes.openai(model),
    }
    engine = await kinds[kind]()
    ids = await engine.encode("a")
    whole = await draw(engine, ids, max_tokens=4, top=1)
    async with faulty_proxy(engine.url) as proxy:
        spoilt = HttpEngine(proxy.url, key=engine.key, dialect=engine.dialect, coder=engine._coder)
        spoilt._facts = await engine.facts()
        pool = Pool([spoilt, engine], retries=PATIENT, rules=UNBROKEN)
        session = Session(
            next(f"{n}" for n in range(99) if ranked(f"{n}", [spoilt.name, engine.name])[0] == proxy.url), 0
        )
        # Every byte of the first events; then now and then, for the last one may be long.
        for cut in itertools.chain(range(160), itertools.count(160, 41)):
            before = proxy.faults.total()
            proxy.plan = lambda request, at=cut: Spoil("reset", at) if request.path in STREAMED else None
            usage, tokens = Usage(), list[Token]()
            async with pool.generate(ids, GREEDY, max_tokens=4, top=1, usage=usage, session=session) as stream:
                tokens += [token async for token in stream]
            pool.leave(session)
            assert [token.id for token in tokens if token.id >= 0] == whole.ids, cut
            assert "".join(token.text for token in tokens) == whole.text, cut
            assert tokens[-1].finish == whole.finish
            if proxy.faults.total() == before:
                break
        assert cut > 100
        await spoilt.close()


async def _address(servers: Servers) -> HttpEngine:
    return servers.address(await servers.serve(chain(*STORY_PIECES), context_tokens=512))


async def says_nothing(wire: Wire) -> None:
    await asyncio.Event().wait()


async def falls_silent(wire: Wire) -> None:
    await wire.token()
    await wire.token()
    await asyncio.Event().wait()


async def drips(wire: Wire) -> None:
    for _ in range(1000):
        await wire.token()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def nobody_accepts() -> AsyncIterator[str]:
    """An address whose queue of connections is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield "http://127.0.0.1:{1}".format(*listening.getsockname())
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("behave", "timeouts"),
    [
        (says_nothing, Timeouts(first_token_s=0.1)),
        (falls_silent, Timeouts(between_tokens_s=0.1)),
        (drips, Timeouts(total_s=0.3)),
        (None, Timeouts(connect_s=0.2)),
    ],
    ids=["first token", "between tokens", "total", "connect"],
)
async def test_a_time_that_is_up_is_no_end_but_a_reason_to_go_on_elsewhere(behave: Any, timeouts: Timeouts) -> None:
    seen: list[list[int]] = []

    async def goes_on(wire: Wire) -> None:
        seen.append((await wire._request.json())["prompt"])
        await wire.token(2)
        await wire.end()

    async with mock(goes_on, timeouts=Timeouts()) as good, mock(behave or says_nothing, timeouts=timeouts) as bad:
        good.name, bad.name = "good", "bad"
        async with nobody_accepts() as address:
            if behave is None:
                bad = HttpEngine(address, name="bad", timeouts=timeouts)
                bad._facts = await good.facts()
            session = Session(next(f"{n}" for n in range(99) if ranked(f"{n}", ["good", "bad"])[0] == "bad"), 0.0)
            pool, tokens = Pool([bad, good]), list[Token]()
            async with pool.generate([5], GREEDY, max_tokens=99, top=0, usage=Usage(), session=session) as stream:
                tokens += [token async for token in stream]
        ids = [token.id for token in tokens if token.id >= 0]
        assert ids[-1] == 2
        assert seen == [[5, *ids[:-1]]]
        assert {one.name: one.failed for one in pool.replicas} == {"good": 0, "bad": 1}


@pytest.mark.parametrize("fault", ["503", "503-retry-after", "refuse"])
async def test_one_address_alone_is_asked_again(fault: Any, servers: Servers) -> None:
    engine = await _address(servers)
    async with faulty_proxy(engine.url) as proxy:
        pool = Pool([HttpEngine(proxy.url, key=engine.key)])
        ids = await pool.encode("a")
        # A hang-up before any byte may be that of a connection kept too long: it is made again without being counted.
        spoils = iter([Spoil(fault)] * (4 if fault == "refuse" else 2))
        proxy.plan = lambda _: next(spoils, None)
        assert (await draw(pool, ids)).text == STORY
        assert pool.replicas[0].failed == 2
        await pool.close()


async def test_an_answer_goes_on_when_a_server_is_killed_within_a_step() -> None:
    request = questions(1)[0]
    async with AsyncExitStack() as stack:
        judge = Judge({side: await serve(stack, side) for side in SIDES})
        wanted = await judge.faultless(request)
        for victim in SIDES:
            got = await killed_answer(request, victim, after_steps=1)
            assert got is not None
            assert (await judge.outcome(request, wanted, got)).how in ("same", "tie")


@pytest.mark.timeout(240)
async def test_sixty_answers_over_servers_that_spoil_one_request_in_ten_end_as_without_faults() -> None:
    hows, proxies = await random_faults(60, 0.1, at_once=4, seed=1)
    assert hows["same"] + hows["tie"] == 60
    assert hows["tie"] <= 3
    requests, faults = sum(one.requests for one in proxies), sum(one.faults.total() for one in proxies)
    assert faults > 0.05 * requests
    assert requests / (requests - faults) < 1.2


async def test_replicas_spoken_to_in_text_share_their_numbers(fakes: Fakes) -> None:
    model = Bigram(chain(*STORY_PIECES))
    urls = [await fakes.serve(openai_app(model)) for _ in range(2)]
    async with faulty_proxy(urls[0]) as proxy:
        pool = await open_replicas(Model((proxy.url, urls[1]), dialect="openai"), side="small")
        assert not (await pool.facts()).takes_ids
        prompt = await pool.encode_prompt([{"role": "user", "content": "a"}])
        ids = [*prompt, *await pool.encode("a")]
        proxy.plan = lambda request: Spoil("reset", 300) if request.path in STREAMED else None
        drawn = [await draw(pool, ids) for _ in range(24)]  # by chance, each to one of the two
        assert {one.text for one in drawn} == {STORY}
        assert proxy.faults.total() > 0
        await pool.close()


async def test_servers_of_two_kinds_of_prompt_are_refused(fakes: Fakes, servers: Servers) -> None:
    ours = await _address(servers)
    text = await fakes.serve(openai_app(Bigram(chain(*STORY_PIECES))))
    os.environ["GLIMPROUTER_SMALL_KEY"] = ours.key or ""
    try:
        with pytest.raises(PairError, match=r"way to take prompts \(ids or text\)"):
            await open_replicas(Model((ours.url, text)), side="small")
    finally:
        del os.environ["GLIMPROUTER_SMALL_KEY"]


async def test_a_server_killed_in_mid_stream_is_gone_on_from_elsewhere(tmp_path: Any) -> None:

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
    up = await servers.serve(chain(*STORY_PIECES), context_tokens=512)
    os.environ["GLIMPROUTER_SMALL_KEY"] = up.key or ""
    try:
        pool = await open_replicas(Model(("http://127.0.0.1:9", up.url)), side="small")
        drawn = await asyncio.gather(*(draw(pool, ids_of(b"a")) for _ in range(6)))
        assert {one.text for one in drawn} == {STORY}
        assert {one.name for one in pool.replicas} == {"http://127.0.0.1:9", up.url}
        await pool.close()
        with pytest.raises(ModelError, match="no server that can be used"):
            await open_engine(model_at("http://127.0.0.1:9, http://127.0.0.1:19"), side="small")
    finally:
        del os.environ["GLIMPROUTER_SMALL_KEY"]
