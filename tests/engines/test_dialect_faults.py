"""Servers of every kind that misbehave. However one does, a stream never just ends: it says why, or raises by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from glimprouter.config import Sampling
from glimprouter.engines.dialects.openai import openai
from glimprouter.engines.dialects.sglang import sglang
from glimprouter.engines.dialects.vllm import vllm
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.engines.text_mode import Pieces
from glimprouter.errors import ContextError, EngineError, EngineProtocolError, EngineTimeout, EngineUnavailable
from glimprouter.flow.engine import Usage
from glimprouter.flow.glimpse import Glimpse, glimpse_of
from tests.engines.bigram_gguf import END, VOCABULARY_SIZE, chain, ids_of
from tests.engines.drawn import GREEDY, draw, first
from tests.engines.fake_model import TOKEN, Behaviour, Bigram, BigramCoder, Said, Wire, serving
from tests.engines.fake_openai import openai_app
from tests.engines.fake_sglang import sglang_app
from tests.engines.fake_vllm import VllmHost

KINDS = ("vllm", "sglang", "openai")
QUICK = Timeouts(connect_s=1.0, first_token_s=0.3, between_tokens_s=0.1, total_s=5.0)
MODEL = Bigram(chain(b"a", b"b", b"c"), 64)


def app_of(kind: str, behave: Behaviour | None) -> web.Application:
    if kind == "vllm":
        return VllmHost(MODEL, behave).app()
    return (sglang_app if kind == "sglang" else openai_app)(MODEL, behave)


def engine_at(url: str, kind: str, timeouts: Timeouts = QUICK) -> HttpEngine:
    if kind == "openai":
        pieces = Pieces(BigramCoder(MODEL))
        dialect = openai("fake", 64, pieces, renders=True, warnings=())
        return HttpEngine(url, name="fake", dialect=dialect, coder=pieces, timeouts=timeouts)
    dialect = vllm("fake", 64, priorities=False) if kind == "vllm" else sglang("fake", 64, scaled=False)
    return HttpEngine(url, name="fake", dialect=dialect, coder=BigramCoder(MODEL), timeouts=timeouts)


@asynccontextmanager
async def engine_of(kind: str, behave: Behaviour | None, *, timeouts: Timeouts = QUICK) -> AsyncIterator[HttpEngine]:
    async with serving(app_of(kind, behave)) as url:
        engine = engine_at(url, kind, timeouts)
        try:
            yield engine
        finally:
            await engine.close()


# Ways to fail ---------------------------------------------------------------------------------------------------------


async def dies_within_the_stream(wire: Wire) -> None:
    await wire.say()
    wire.hang_up()


async def ends_without_saying_why(wire: Wire) -> None:
    await wire.say()


async def is_done_without_saying_why(wire: Wire) -> None:
    await wire.say()
    await wire.close()


async def ends_within_an_event(wire: Wire) -> None:
    await wire.say()
    await wire.raw(b'data: {"choices":[{"te')


async def sends_half_an_object(wire: Wire) -> None:
    await wire.raw(b'data: {"choices":[{"te\n\n')


async def fails_and_says_that_it_is_done(wire: Wire) -> None:
    await wire.say()
    await wire.payload(wire.speech.failure("EngineCore encountered an issue"))
    await wire.raw(b"data: [DONE]\n\n")


async def fails_at_once_and_says_that_it_is_done(wire: Wire) -> None:
    await wire.payload(wire.speech.failure("EngineCore encountered an issue"))
    await wire.raw(b"data: [DONE]\n\n")


async def answers_with_an_error_and_status_200(wire: Wire) -> None:
    wire.reply.content_type = "application/json"
    await wire.raw(json.dumps(wire.speech.failure("out of memory")).encode())


async def is_aborted(wire: Wire) -> None:
    await wire.say(finish="abort")
    await wire.close()


async def is_silent(wire: Wire) -> None:
    await wire.raw(b"")
    await asyncio.sleep(10)


async def falls_silent_after_one_token(wire: Wire) -> None:
    """As vLLM does on SIGTERM: data stops, the socket stays open."""
    await wire.say()
    await asyncio.sleep(10)


async def falls_silent_after_two_tokens(wire: Wire) -> None:
    await wire.say()
    await wire.say()
    await asyncio.sleep(10)


async def only_keeps_the_connection_alive(wire: Wire) -> None:
    await wire.say()
    for _ in range(1000):
        await wire.raw(b": ping\n\n")
        await asyncio.sleep(0.01)


def answers(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Behaviour:
    async def behave(wire: Wire) -> None:
        wire.reply.set_status(status)
        wire.reply.headers.update(headers or {})
        await wire.raw(json.dumps({"error": {"message": message}}).encode())

    return behave


async def fails_in_html(wire: Wire) -> None:
    wire.reply.set_status(500)
    await wire.raw(b"<h1>Oops</h1>")


async def refuses_as_fastapi_does(wire: Wire) -> None:
    wire.reply.set_status(404)
    await wire.raw(b'{"detail":"Not Found"}')


FAULTS: list[tuple[str, Behaviour, type[EngineError], str, bool]] = [
    ("dies within the stream", dies_within_the_stream, EngineUnavailable, "fake: ", False),
    ("ends without saying why", ends_without_saying_why, EngineUnavailable, "without its last event", False),
    ("is done without saying why", is_done_without_saying_why, EngineUnavailable, "without saying why", False),
    ("ends within an event", ends_within_an_event, EngineUnavailable, "without its last event", False),
    ("sends half an object", sends_half_an_object, EngineProtocolError, "breaks the", False),
    ("fails and is done", fails_and_says_that_it_is_done, EngineProtocolError, "EngineCore", False),
    ("fails at once and is done", fails_at_once_and_says_that_it_is_done, EngineProtocolError, "EngineCore", False),
    ("errs with status 200", answers_with_an_error_and_status_200, EngineProtocolError, "out of memory", False),
    ("is aborted", is_aborted, EngineProtocolError, "finish_reason 'abort'", False),
    ("is silent", is_silent, EngineTimeout, r"no token within 0\.3 s", False),
    ("falls silent after one token", falls_silent_after_one_token, EngineTimeout, r"within 0\.1 s", False),
    ("falls silent after two tokens", falls_silent_after_two_tokens, EngineTimeout, r"within 0\.1 s", False),
    ("only pings", only_keeps_the_connection_alive, EngineTimeout, r"within 0\.1 s", False),
    ("is busy", answers(503, "loading"), EngineUnavailable, "answered 503: loading", False),
    ("is asked too often", answers(429), EngineUnavailable, "answered 429", False),
    ("waited too long", answers(408), EngineUnavailable, "answered 408", False),
    ("fails in HTML", fails_in_html, EngineProtocolError, "<h1>Oops</h1>", False),
    ("refuses the request", answers(400, "no such field"), EngineProtocolError, "no such field", True),
    ("refuses as FastAPI does", refuses_as_fastapi_does, EngineProtocolError, "answered 404: Not Found", True),
    ("wants a key", answers(401), EngineProtocolError, "GLIMPROUTER_SMALL_KEY", True),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("behave", "error", "said", "final"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_a_stream_fails_by_name_when_the_server(
    kind: str, behave: Behaviour, error: type[EngineError], said: str, final: bool
) -> None:
    async with engine_of(kind, behave) as engine:
        with pytest.raises(error, match=said) as raised:
            await draw(engine, [97], top=5)
        assert raised.value.engine == "fake"
        assert raised.value.final is final


@pytest.mark.parametrize("kind", KINDS)
async def test_a_busy_server_may_say_for_how_long(kind: str) -> None:
    for header, seconds in (({"Retry-After": "7"}, 7.0), ({"Retry-After": "Fri, 1 Jan"}, None), ({}, None)):
        async with engine_of(kind, answers(503, headers=header)) as engine:
            with pytest.raises(EngineUnavailable) as raised:
                await draw(engine, [97])
            assert raised.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vllm", "This model's maximum context length is 64 tokens. However, your prompt contains 99 input tokens."),
        ("vllm", "The decoder prompt (length 99) is longer than the maximum model length of 64."),
        (
            "vllm",
            "This model's maximum context length is 64 tokens. However, you requested 101 tokens (99 in the messages",
        ),
        ("sglang", "The input (99 tokens) is longer than the model's context length (64 tokens)."),
        ("openai", "This model's maximum context length is 64 tokens. However, your prompt contains 99 input tokens."),
    ],
)
async def test_a_prompt_too_long_is_the_callers_to_mend(kind: str, said: str) -> None:
    async with engine_of(kind, answers(400, said)) as engine:
        with pytest.raises(ContextError, match=r"the prompt has 99 tokens, the context holds 64; shorten"):
            await draw(engine, [97])


async def test_a_code_alone_may_say_that_a_prompt_is_too_long() -> None:
    async def refuses(wire: Wire) -> None:
        wire.reply.set_status(400)
        await wire.raw(b'{"error":{"message":"Too much.","type":"invalid","code":"context_length_exceeded"}}')

    async with engine_of("openai", refuses) as engine:
        with pytest.raises(ContextError, match=r"too long: Too much\."):
            await draw(engine, [97])


@pytest.mark.parametrize("kind", KINDS)
async def test_that_all_kept_connections_are_dead_is_no_fault(kind: str) -> None:
    used: list[Any] = []
    together = asyncio.Barrier(4)

    async def serves_a_connection_once(wire: Wire) -> None:
        connection = wire.request.transport
        if connection in used:
            wire.hang_up()
            return
        used.append(connection)
        if len(used) <= 4:
            await together.wait()
        await wire.say()
        await wire.end()

    async with engine_of(kind, serves_a_connection_once, timeouts=Timeouts(first_token_s=10.0)) as engine:
        await asyncio.gather(*(draw(engine, [97]) for _ in range(4)))
        drawn = await draw(engine, [97])
    assert drawn.text == "A"
    assert len(used) == 5


# Bytes ----------------------------------------------------------------------------------------------------------------


async def recorded(kind: str) -> bytes:
    """A whole reply of three tokens and its end, as bytes."""
    data = b""

    class Recorder(Wire):
        async def raw(self, more: bytes) -> None:
            nonlocal data
            data += more

    async def speaks(wire: Wire) -> None:
        recorder = Recorder(wire.request, wire.speech)
        for _ in range(3):
            await recorder.say()
        await recorder.end()
        await wire.raw(data)

    async with engine_of(kind, speaks) as engine:
        assert (await draw(engine, [97], top=5)).text == "AAA"
    return data


def replays(data: bytes, *, piece: int, then_dies: bool = False) -> Behaviour:
    async def behave(wire: Wire) -> None:
        for start in range(0, len(data), piece):
            await wire.raw(data[start : start + piece])
            if piece < 16:
                await asyncio.sleep(0)
        if then_dies:
            wire.hang_up()

    return behave


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reset_at_any_byte_is_noticed_or_too_late_to_matter(kind: str) -> None:
    """Where the end was told already, the reply is whole: that the connection dies then is no fault."""
    data = await recorded(kind)
    cut: list[int] = []

    async def dies(wire: Wire) -> None:
        await wire.raw(data[: cut[0]])
        await asyncio.sleep(0)
        wire.hang_up()

    told = data.index(b"data:", data.rindex(b'"finish_reason": {' if kind == "sglang" else b'"finish_reason": "'))
    async with engine_of(kind, dies, timeouts=replace(QUICK, first_token_s=5.0, between_tokens_s=5.0)) as engine:
        for length in range(1, len(data), 3 if len(data) < 3000 else 17):
            cut[:] = [length]
            try:
                drawn = await draw(engine, [97], top=5)
            except EngineUnavailable:
                continue
            assert length >= told - 2
            assert (drawn.text, drawn.finish) == ("AAA", "stop")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [lambda data: data, lambda data: b": hello\n\n" + data.replace(b"\n", b"\r\n")])
async def test_events_may_arrive_byte_by_byte_and_with_any_line_ends(
    kind: str, change: Callable[[bytes], bytes]
) -> None:
    async with engine_of(kind, replays(change(await recorded(kind)), piece=1)) as engine:
        drawn = await draw(engine, [97], top=5)
    assert (drawn.text, drawn.finish) == ("AAA", "stop")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stays", [True, False])
async def test_a_missing_done_is_no_loss(kind: str, stays: bool) -> None:
    data = (await recorded(kind)).replace(b"data: [DONE]\n\n", b"")

    async def behave(wire: Wire) -> None:
        await wire.raw(data)
        if stays:
            await asyncio.sleep(10)

    async with engine_of(kind, behave) as engine:
        drawn = await draw(engine, [97], top=5)
    assert (drawn.text, drawn.finish) == ("AAA", "stop")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slow_first_token_is_waited_for_longer_than_the_next(kind: str) -> None:
    async def thinks(wire: Wire) -> None:
        await wire.raw(b": ping\n\n")
        await asyncio.sleep(0.2)
        await wire.say()
        await wire.end()

    async with engine_of(kind, thinks) as engine:
        assert (await draw(engine, [97])).text == "A"


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_several_tokens_in_one_event_get_their_own_text_where_a_step_may_end(kind: str) -> None:
    story = [
        Said(id_, text, -0.1, TOKEN.top)
        for id_, text in zip(ids_of(b"b", b".\n\n", b"c"), ("b", ".\n\n", "c"), strict=True)
    ]

    async def speaks(wire: Wire) -> None:
        await wire.say(*story)
        await wire.say(*story[:1], Said(END, "", -0.1, TOKEN.top), finish="stop")
        await wire.close()

    async with engine_of(kind, speaks) as engine:
        drawn = await draw(engine, [97], top=5)
    assert [token.text for token in drawn.tokens] == ["b", ".\n\n", "c", "b"]
    assert drawn.finish == "stop"
    assert all(len(token.top) == 5 for token in drawn.tokens)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_token_that_completes_a_character_in_the_same_event_carries_it(kind: str) -> None:
    ids = ids_of(b"\xe2", b"\x82", b"\xac", b"\n\n")

    async def speaks(wire: Wire) -> None:
        texts = ("", "", "€", "\n\n")
        await wire.say(*[Said(id_, text, -0.1, TOKEN.top) for id_, text in zip(ids, texts, strict=True)])
        await wire.end()

    async with engine_of(kind, speaks) as engine:
        drawn = await draw(engine, [97])
    assert [(token.id, token.text) for token in drawn.tokens] == list(zip(ids, ("", "", "€", "\n\n"), strict=True))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("id_", [-1, VOCABULARY_SIZE])
async def test_an_id_outside_the_vocabulary_is_refused(kind: str, id_: int) -> None:
    async def speaks(wire: Wire) -> None:
        await wire.say(replace(TOKEN, id=id_))

    async with engine_of(kind, speaks) as engine:
        with pytest.raises(EngineProtocolError, match=f"id {id_} is outside the vocabulary of {VOCABULARY_SIZE}"):
            await draw(engine, [97])


BROKEN: dict[str, Said] = {
    "no number": replace(TOKEN, logprob=float("nan")),
    "no number among the best": replace(TOKEN, top=((65, -0.5), (90, float("nan")), *TOKEN.top[2:])),
    "a probability over one": replace(TOKEN, logprob=0.7),
    "a probability over one among the best": replace(TOKEN, top=((90, 0.7), *TOKEN.top[1:])),
    "too few": replace(TOKEN, top=TOKEN.top[:1]),
    "none": replace(TOKEN, top=()),
}


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
async def test_no_glimpse_is_had_from_log_probabilities_that_are(kind: str, said: Said) -> None:
    async def speaks(wire: Wire) -> None:
        await wire.say(said)
        await wire.end()

    async with engine_of(kind, speaks) as engine:
        with pytest.raises(EngineProtocolError):
            await glimpsed(engine)


async def glimpsed(engine: HttpEngine) -> Glimpse:
    return glimpse_of((await draw(engine, [97], top=5)).tokens[0], VOCABULARY_SIZE)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_glimpse_is_had_where_log_probabilities_are_missing(kind: str) -> None:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if "logprobs" not in key}
        return [without(item) for item in value] if isinstance(value, list) else value

    async def speaks(wire: Wire) -> None:
        await wire.payload(without(wire.speech.event((TOKEN,))))
        await wire.end()

    async with engine_of(kind, speaks) as engine:
        token = (await draw(engine, [97], top=5)).tokens[0]
        assert token.text == "A"
        with pytest.raises(EngineProtocolError, match="log-probabilities"):
            glimpse_of(token, VOCABULARY_SIZE)


@pytest.mark.parametrize("kind", KINDS)
async def test_log_probabilities_come_best_first_and_no_more_than_asked_for(kind: str) -> None:
    """vLLM puts the token drawn first, one more where it is none of the best."""
    unlikely = Said(90, "Z", -9.0, tuple((65 + place, -0.5 - place) for place in range(5)))

    async def speaks(wire: Wire) -> None:
        await wire.say(unlikely)
        await wire.end()

    async with engine_of(kind, speaks) as engine:
        token = (await draw(engine, [97], Sampling(temperature=1.0), top=5)).tokens[0]
    assert (token.text, token.logprob) == ("Z", -9.0)
    assert [value for _, value in token.top] == [-0.5, -1.5, -2.5, -3.5, -4.5]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_who_leaves_stops_the_server(kind: str) -> None:
    stopped = asyncio.Event()

    async def talks(wire: Wire) -> None:
        try:
            while True:
                await wire.say()
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    async with engine_of(kind, talks) as engine:
        usage = Usage()
        await first(engine, [97], usage=usage)
        async with asyncio.timeout(2):
            await stopped.wait()
    assert usage.requests == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_never_ends_is_ended(kind: str) -> None:
    async def drips(wire: Wire) -> None:
        for _ in range(1000):
            await wire.say()
            await asyncio.sleep(0.01)

    async with engine_of(kind, drips, timeouts=Timeouts(between_tokens_s=1, total_s=0.2)) as engine:
        with pytest.raises(EngineTimeout, match=r"no end of the stream within 0\.2 s"):
            await draw(engine, [97], GREEDY)
