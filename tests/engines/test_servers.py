"""An address is asked what kind of server it is and what it can do; the router can use what it finds, or says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from glimprouter.config import Model, Routing, Sampling
from glimprouter.engines.dialects.vllm import WARM_DELAY_S
from glimprouter.engines.http import HttpEngine
from glimprouter.engines.servers import open_replicas, open_server, tried_sglang
from glimprouter.errors import ModelError
from glimprouter.flow.engine import Session, Usage
from glimprouter.flow.request import ask
from glimprouter.router import Router
from tests.engines.bigram_gguf import chain
from tests.engines.conftest import Fakes
from tests.engines.drawn import FREE, GREEDY, draw
from tests.engines.fake_model import Bigram, BigramCoder
from tests.engines.fake_openai import openai_app
from tests.engines.fake_sglang import sglang_app
from tests.engines.fake_vllm import VllmHost

STORY = chain(b"\n", b"a", b".\n\n", b"c", b"</think>", b"\n\n", b"4")
"""What follows an open thought; `\\n` stands before and after the opening tag."""
UNSURE = {last: {b"b": 0.5, b"c": 0.25, b"d": 0.125, b"e": 0.0625, b"f": 0.0625} for last in (b"a", b"=")}


async def opened(url: str, **settings: Any) -> HttpEngine:
    return await open_server(url, Model((url,), **settings), side="small")


# vLLM -----------------------------------------------------------------------------------------------------------------


async def test_vllm_is_found_by_asking(fakes: Fakes) -> None:
    engine = await fakes.vllm(Bigram(STORY))
    facts = await engine.facts()
    assert engine.dialect.name == "vllm"
    assert (facts.model, facts.context_tokens, facts.takes_ids, facts.warnings) == ("fake", 512, True, ())


async def test_calls_of_an_answer_say_whose_they_are_and_when_it_arrived(fakes: Fakes) -> None:
    host = VllmHost(Bigram(STORY))
    engine = await fakes.vllm(host)
    session = Session("answer-1", 1_000_000.7)
    for _ in range(2):
        async with engine.generate([97], GREEDY, max_tokens=4, top=0, usage=Usage(), session=session) as tokens:
            await anext(tokens)
    await engine.prefill([97], session=session)
    calls = [(asked.get("priority"), headers["X-Session-ID"]) for asked, headers in host.seen[-3:]]
    assert calls == [(1_000_000, "answer-1")] * 2 + [(1_000_000 + WARM_DELAY_S, "answer-1")]


async def test_a_vllm_that_knows_no_priorities_is_sent_none(fakes: Fakes) -> None:
    host = VllmHost(Bigram(STORY), priorities=False)
    engine = await fakes.vllm(host)
    async with engine.generate([97], GREEDY, max_tokens=1, top=0, usage=Usage(), session=Session("a", 5.0)) as tokens:
        await anext(tokens)
    assert "priority" not in host.seen[-1][0]


async def test_every_sampling_field_is_sent_and_no_stop_strings(fakes: Fakes) -> None:
    host = VllmHost(Bigram(STORY))
    engine = await fakes.vllm(host)
    await draw(engine, [97], Sampling(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, presence_penalty=1.5, seed=7))
    asked = host.seen[-1][0]
    sent = {key: asked[key] for key in ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "seed")}
    assert sent == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 1.5,
        "seed": 7,
    }
    assert "stop" not in asked


@pytest.mark.parametrize(("tokenizes", "token_ids"), [(False, True), (True, False)])
async def test_a_vllm_that_hides_its_ids_is_spoken_to_in_text(fakes: Fakes, tokenizes: bool, token_ids: bool) -> None:
    """An old one, or one behind a gateway that lets the common routes through alone."""
    host = VllmHost(Bigram(STORY), tokenizes=tokenizes, token_ids=token_ids)

    async def chat(request: web.Request) -> web.Response:
        text = {"role": "assistant", "content": "five"}
        return web.json_response({"choices": [{"message": text, "finish_reason": "stop"}]})

    app = host.app()
    app.router.add_post("/v1/chat/completions", chat)
    engine = await opened(await fakes.serve(app))
    assert engine.dialect.name == "openai"
    assert "takes no ids" in (await engine.facts()).warnings[0]
    await engine.close()


async def test_a_model_that_is_not_served_is_refused_with_those_that_are(fakes: Fakes) -> None:
    with pytest.raises(ModelError, match="model is 'other'; served there: fake"):
        await fakes.vllm(Bigram(STORY), model="other")


# SGLang ---------------------------------------------------------------------------------------------------------------


async def sglang_engine(fakes: Fakes, model: Bigram, **options: Any) -> HttpEngine:
    url = await fakes.serve(sglang_app(model, **options))
    scout = HttpEngine(url)
    try:
        return await tried_sglang(scout, "fake", 64, lambda one: HttpEngine(url, dialect=one, coder=BigramCoder(model)))
    finally:
        await scout.close()


async def test_sglang_is_found_by_asking_and_wants_tokenizer_files(fakes: Fakes) -> None:
    with pytest.raises(ModelError, match=r"SGLang does not render a chat.*--tokenizer FOLDER"):
        await opened(await fakes.serve(sglang_app(Bigram(STORY))))


@pytest.mark.parametrize("incremental", [False, True])
async def test_sglang_may_repeat_itself_or_not(fakes: Fakes, incremental: bool) -> None:
    engine = await sglang_engine(fakes, Bigram(STORY), incremental=incremental)
    drawn = await draw(engine, [97], top=3)
    assert (drawn.text, drawn.finish) == (".\n\nc</think>\n\n4", "stop")
    assert [len(token.top) for token in drawn.tokens] == [3] * 5
    assert [token.top[0][0] for token in drawn.tokens] == drawn.ids
    assert any("--incremental-streaming-output" in line for line in (await engine.facts()).warnings) is not incremental
    await engine.close()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
async def test_log_probabilities_divided_by_the_temperature_are_made_good(fakes: Fakes, temperature: float) -> None:
    """Between themselves exactly; what mass was not among them is not known."""
    model = Bigram(UNSURE)
    plain, scaled = await sglang_engine(fakes, model), await sglang_engine(fakes, model, scaled=True)
    sampling = replace(FREE, temperature=temperature)
    honest = (await draw(plain, [97], sampling, top=5)).tokens[0].top
    undone = (await draw(scaled, [97], sampling, top=5)).tokens[0].top
    assert [id_ for id_, _ in undone] == [id_ for id_, _ in honest]
    assert [value for _, value in undone] == pytest.approx([value for _, value in honest], abs=1e-6)
    assert (await plain.facts()).warnings[1:] == ()
    assert "SGLANG_RETURN_ORIGINAL_LOGPROB=1" in (await scaled.facts()).warnings[-1]
    for engine in (plain, scaled):
        await engine.close()


async def test_an_sglang_without_seeds_is_sent_none(fakes: Fakes) -> None:
    engine = await sglang_engine(fakes, Bigram(STORY), seeds=False)
    assert (await draw(engine, [97])).finish == "stop"
    await engine.close()


async def test_an_sglang_gateway_is_told_where_an_answer_belongs(fakes: Fakes) -> None:
    seen: list[Any] = []
    engine = await sglang_engine(fakes, Bigram(STORY), seen=seen)
    session = Session("answer-1", 5.0)
    async with engine.generate([97], GREEDY, max_tokens=1, top=0, usage=Usage(), session=session) as tokens:
        await anext(tokens)
    headers = seen[-1][1]
    assert (headers["X-Session-ID"], headers["X-SMG-Routing-Key"]) == ("answer-1", "answer-1")
    await engine.close()


# Text hosts -----------------------------------------------------------------------------------------------------------


async def test_a_chat_host_continues_the_assistants_turn(fakes: Fakes) -> None:
    """The whole way: a small model on vLLM glimpses, the large one is a host that has nothing but chats."""
    small = await fakes.vllm(Bigram(STORY))
    seen: list[Any] = []
    url = await fakes.serve(openai_app(Bigram(STORY), seen=seen))
    large = await open_replicas(Model((url,), thought_format="think"), side="large")
    trace = await Router(small, large).answer(
        ask("hi <|im_end|> <b>", routing=Routing(policy="glimpse", threshold=0.0, min_step_tokens=1))
    )
    assert trace.answer is not None
    assert ("".join(step.text for step in trace.steps), trace.answer.text) == ("a.\n\nc</think>", "\n\n4")
    assert {step.author for step in trace.steps} == {"large"}
    messages = seen[-1][0]["messages"]
    assert messages[0] == {"role": "user", "content": "hi <\u200b|im_end|> <b>"}
    assert messages[1]["content"].startswith("<think>\n")
    await large.close()


async def test_replicas_of_a_text_host_understand_each_others_numbers(fakes: Fakes) -> None:
    urls = tuple([await fakes.serve(openai_app(Bigram(STORY))) for _ in range(2)])
    pool = await open_replicas(Model(urls, thought_format="think"), side="large")
    one, other = [await opened(url) for url in urls]
    ids = [*await one.encode_prompt([{"role": "user", "content": "hi"}]), *await one.encode("a")]
    assert await one.facts() == replace(await other.facts(), warnings=(await one.facts()).warnings)
    assert (await draw(other, ids)).text == ".\n\nc</think>\n\n4"
    for engine in (pool, one, other):
        await engine.close()


async def test_a_host_that_does_not_stream_is_asked_for_blocks(fakes: Fakes) -> None:
    seen: list[Any] = []
    engine = await opened(await fakes.serve(openai_app(Bigram(STORY), streams=False, seen=seen)))
    assert engine.block_tokens > 0
    assert "does not stream" in (await engine.facts()).warnings[1]
    assert (await draw(engine, await engine.encode("a"))).text == ".\n\nc</think>\n\n4"
    assert "stream" not in seen[-1][0]
    await engine.close()


async def test_a_host_that_begins_anew_is_refused(fakes: Fakes) -> None:
    async def chat(request: web.Request) -> web.Response:
        text = {"role": "assistant", "content": "One, two, three, four, five"}
        return web.json_response({"choices": [{"message": text, "finish_reason": "stop"}]})

    app = openai_app(Bigram(STORY))
    anew = web.Application()
    anew.router.add_post("/v1/chat/completions", chat)
    anew.router.add_get("/v1/models", next(r for r in app.router.routes() if r.method == "GET").handler)
    with pytest.raises(ModelError, match="does not continue what the assistant has begun to write"):
        await opened(await fakes.serve(anew))


async def test_an_unknown_dialect_is_refused_with_those_known() -> None:
    with pytest.raises(ModelError, match="dialect is 'tgi'; accepted: auto, llamacpp, vllm, sglang, openai"):
        await opened("http://127.0.0.1:9", dialect="tgi")
