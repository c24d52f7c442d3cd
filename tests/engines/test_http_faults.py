"""A server that misbehaves. However it does, a stream never just ends: it says `stop` or `length`, or raises."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from glimprouter.config import model_at
from glimprouter.engines import open_engine
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.errors import (
    ContextError,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    ModelError,
)
from glimprouter.flow.engine import Usage
from tests.engines.drawn import GREEDY, draw

Behaviour = Callable[["Wire"], Awaitable[None]]

QUICK = Timeouts(connect_s=1.0, first_token_s=0.1, between_tokens_s=0.05, total_s=5.0)
PROPS = {"default_generation_settings": {"n_ctx": 64}, "chat_template": "<think>"}
MODELS = {"data": [{"id": "mock", "meta": {"n_vocab": 10}}]}


class Wire:
    """One streamed reply of the mock server."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._drawn = 0

    async def raw(self, data: bytes) -> None:
        if not self._reply.prepared:
            await self._reply.prepare(self._request)
        await self._reply.write(data)

    async def event(self, **fields: Any) -> None:
        reply = {"content": "", "tokens": [], "stop": False, "tokens_predicted": self._drawn, "tokens_evaluated": 1}
        await self.raw(b"data: " + json.dumps(reply | fields).encode() + b"\n\n")

    async def token(self, id_: int = 1, **fields: Any) -> None:
        self._drawn += 1
        await self.event(**{"content": "x", "tokens": [id_], "tokens_predicted": self._drawn} | fields)

    async def end(self) -> None:
        await self.event(stop=True, stop_type="eos")

    def hang_up(self) -> None:
        assert self._request.transport is not None
        self._request.transport.abort()


@asynccontextmanager
async def mock(behave: Behaviour, *, timeouts: Timeouts = QUICK) -> AsyncIterator[HttpEngine]:
    """An engine whose server answers everything but `/completion` well."""

    async def completion(request: web.Request) -> web.StreamResponse:
        wire = Wire(request)
        await behave(wire)
        return wire._reply

    def reply(value: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response(value)

        return handler

    app = web.Application()
    app.router.add_get("/props", reply(PROPS))
    app.router.add_get("/v1/models", reply(MODELS))
    app.router.add_post("/tokenize", reply({"tokens": [1, 2, 3]}))
    app.router.add_post("/completion", completion)
    async with serving(app) as url:
        engine = HttpEngine(url, name="mock", timeouts=timeouts)
        try:
            yield engine
        finally:
            await engine.close()


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


# Ways to fail ---------------------------------------------------------------------------------------------------------


async def dies_within_the_stream(wire: Wire) -> None:
    await wire.token()
    wire.hang_up()


async def ends_without_its_last_event(wire: Wire) -> None:
    await wire.token()


async def ends_within_an_event(wire: Wire) -> None:
    await wire.token()
    await wire.raw(b'data: {"content":"x","tok')


async def sends_half_an_object(wire: Wire) -> None:
    await wire.raw(b'data: {"content":"x","tok\n\n')


async def sends_an_error_event(wire: Wire) -> None:
    await wire.token()
    await wire.raw(b'data: {"error":{"code":500,"message":"out of memory","type":"server_error"}}\n\n')


async def sends_an_old_error_event(wire: Wire) -> None:
    await wire.raw(b'error: {"code":500,"error":{"message":"out of memory"}}\n\n')


async def answers_with_an_error_and_status_200(wire: Wire) -> None:
    wire._reply.content_type = "application/json"
    await wire.raw(b'{"error":{"message":"out of memory","type":"server_error"}}')


async def sends_a_logprob_that_is_no_number(wire: Wire) -> None:
    await wire.token(completion_probabilities=[{"id": 1, "logprob": float("nan"), "top_logprobs": []}])


async def sends_a_logprob_of_null(wire: Wire) -> None:
    await wire.token(completion_probabilities=[{"id": 1, "logprob": None, "top_logprobs": []}])


async def sends_a_probability_over_one(wire: Wire) -> None:
    await wire.token(completion_probabilities=[{"id": 1, "logprob": 0.7, "top_logprobs": []}])


async def sends_probabilities_of_another_token(wire: Wire) -> None:
    await wire.token(completion_probabilities=[{"id": 2, "logprob": -0.7, "top_logprobs": []}])


async def sends_an_id_outside_the_vocabulary(wire: Wire) -> None:
    await wire.token(10)


async def sends_a_negative_id(wire: Wire) -> None:
    await wire.token(-1)


async def sends_more_than_it_drew(wire: Wire) -> None:
    await wire.token()
    await wire.token(tokens_predicted=1)


async def ends_for_an_unknown_reason(wire: Wire) -> None:
    await wire.event(stop=True, stop_type="bored")


async def is_silent(wire: Wire) -> None:
    await wire.raw(b"")
    await asyncio.sleep(10)


async def falls_silent(wire: Wire) -> None:
    await wire.token()
    await asyncio.sleep(10)


async def only_keeps_the_connection_alive(wire: Wire) -> None:
    await wire.token()
    for _ in range(1000):
        await wire.raw(b": ping\n\n")
        await asyncio.sleep(0.01)


async def is_loading(wire: Wire) -> None:
    wire._reply.set_status(503)
    await wire.raw(b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')


async def refuses_the_request(wire: Wire) -> None:
    wire._reply.set_status(400)
    await wire.raw(b'{"error":{"code":400,"message":"no such field","type":"invalid_request_error"}}')


async def fails(wire: Wire) -> None:
    wire._reply.set_status(500)
    await wire.raw(b"<h1>Oops</h1>")


async def sends_elsewhere(wire: Wire) -> None:
    wire._reply.set_status(302)
    wire._reply.headers["Location"] = "/props"
    await wire.raw(b"")


async def has_too_small_a_context(wire: Wire) -> None:
    wire._reply.set_status(400)
    error = {"type": "exceed_context_size_error", "message": "?", "n_prompt_tokens": 99, "n_ctx": 64}
    await wire.raw(json.dumps({"error": error}).encode())


FAULTS: list[tuple[Behaviour, type[Exception], str]] = [
    (dies_within_the_stream, EngineUnavailable, "mock: "),
    (ends_without_its_last_event, EngineUnavailable, "the stream ended without its last event"),
    (ends_within_an_event, EngineUnavailable, "the stream ended without its last event"),
    (sends_half_an_object, EngineProtocolError, "breaks the llamacpp format"),
    (sends_an_error_event, EngineProtocolError, "out of memory"),
    (sends_an_old_error_event, EngineProtocolError, "out of memory"),
    (answers_with_an_error_and_status_200, EngineProtocolError, "out of memory"),
    (sends_a_logprob_that_is_no_number, EngineProtocolError, "breaks the llamacpp format"),
    (sends_a_logprob_of_null, EngineProtocolError, "breaks the llamacpp format"),
    (sends_a_probability_over_one, EngineProtocolError, r"log-probability 0\.7 of id 1"),
    (sends_probabilities_of_another_token, EngineProtocolError, "log-probability of id 2 beside id 1"),
    (sends_an_id_outside_the_vocabulary, EngineProtocolError, "id 10 is outside the vocabulary of 10"),
    (sends_a_negative_id, EngineProtocolError, "id -1 is outside the vocabulary of 10"),
    (sends_more_than_it_drew, EngineProtocolError, "1 more tokens arrived than were drawn"),
    (ends_for_an_unknown_reason, EngineProtocolError, "unknown stop_type 'bored'"),
    (is_silent, EngineTimeout, r"no token within 0\.1 s"),
    (falls_silent, EngineTimeout, r"no token within 0\.05 s"),
    (only_keeps_the_connection_alive, EngineTimeout, r"no token within 0\.05 s"),
    (is_loading, EngineUnavailable, "answered 503: Loading model"),
    (refuses_the_request, EngineProtocolError, "answered 400: no such field"),
    (fails, EngineProtocolError, "answered 500: <h1>Oops</h1>"),
    (sends_elsewhere, EngineProtocolError, "answered 302"),
    (has_too_small_a_context, ContextError, "the prompt has 99 tokens, the context holds 64"),
]


@pytest.mark.parametrize(("behave", "error", "said"), FAULTS, ids=[behave.__name__ for behave, _, _ in FAULTS])
async def test_a_stream_fails_by_name_when_the_server(behave: Behaviour, error: type[Exception], said: str) -> None:
    async with mock(behave) as engine:
        with pytest.raises(error, match=said) as raised:
            await draw(engine, [1], top=2)
        if isinstance(raised.value, EngineError):
            assert raised.value.engine == "mock"


async def test_a_stream_that_never_ends_is_ended() -> None:
    async def drips(wire: Wire) -> None:
        for _ in range(1000):
            await wire.token()
            await asyncio.sleep(0.01)

    async with mock(drips, timeouts=Timeouts(between_tokens_s=1, total_s=0.2)) as engine:
        with pytest.raises(EngineTimeout, match=r"no end of the stream within 0\.2 s"):
            await draw(engine, [1])


async def test_a_reader_who_takes_his_time_is_not_the_servers_fault() -> None:
    async def answers(wire: Wire) -> None:
        for _ in range(3):
            await wire.token()
        await wire.end()

    async with mock(answers) as engine:
        drawn = await draw_slowly(engine, pause_s=2 * QUICK.between_tokens_s)
    assert drawn == "xxx"


async def draw_slowly(engine: HttpEngine, *, pause_s: float) -> str:
    text = ""
    async with engine.generate([1], GREEDY, max_tokens=9, top=0, usage=Usage()) as stream:
        async for token in stream:
            text += token.text
            await asyncio.sleep(pause_s)
    return text


async def test_a_connection_that_dies_before_the_first_byte_is_tried_once_more() -> None:
    calls = 0

    async def dies_once(wire: Wire) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            wire.hang_up()
            return
        await wire.token()
        await wire.end()

    async with mock(dies_once) as engine:
        assert (await draw(engine, [1])).text == "x"
    assert calls == 2


async def test_any_number_of_connections_may_have_been_closed_meanwhile() -> None:
    """As a server does after so many replies or seconds: those that were kept alive together go together."""
    kept, all_open, all_closed = 0, asyncio.Event(), asyncio.Event()

    async def reply_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal kept
        await reader.readuntil(b"}")
        kept += 1
        if kept == 3:
            all_open.set()
        await all_open.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"tokens":[7]}')
        await reader.read(1)  # closed at the first byte of the next request
        writer.close()
        if kept == 4:
            all_closed.set()

    server = await asyncio.start_server(reply_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = HttpEngine(f"http://127.0.0.1:{port}", timeouts=Timeouts(first_token_s=5.0))
    async with server:
        assert await asyncio.gather(*(engine.encode(text) for text in "abc")) == [[7]] * 3
        assert await engine.encode("d") == [7]
        all_closed.clear()
        await engine.close()
        await all_closed.wait()
    assert kept == 4


async def test_a_server_that_always_hangs_up_is_unavailable() -> None:
    calls = 0

    async def dies(wire: Wire) -> None:
        nonlocal calls
        calls += 1
        wire.hang_up()

    async with mock(dies) as engine:
        with pytest.raises(EngineUnavailable):
            await draw(engine, [1])
    assert calls == 2


async def test_events_may_arrive_in_any_pieces() -> None:
    class Stutter(Wire):
        whole = b": hello\r\n\r\n"

        async def raw(self, data: bytes) -> None:
            self.whole += data.replace(b"\n", b"\r\n")

    async def stutters(wire: Wire) -> None:
        stutter = Stutter(wire._request)
        await stutter.token(1)
        await stutter.token(2)
        await stutter.end()
        for start in range(0, len(stutter.whole), 7):
            await wire.raw(stutter.whole[start : start + 7])

    async with mock(stutters) as engine:
        drawn = await draw(engine, [1])
    assert (drawn.ids, drawn.finish) == ([1, 2], "stop")


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def answers(wire: Wire) -> None:
        await wire.end()

    async with mock(answers) as engine:
        assert (await draw(engine, [1])).finish == "stop"


async def test_an_address_where_nobody_listens_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ModelError, match=f"--large http://127.0.0.1:{port}: no server") as refused:
        await open_engine(model_at(f"http://127.0.0.1:{port}"), side="large")
    assert refused.value.field == "large"


async def test_a_server_of_another_kind_is_refused_by_name() -> None:
    async with serving(web.Application()) as url:
        with pytest.raises(ModelError, match=r"no server that can be used: .*answered 404"):
            await open_engine(model_at(url), side="small")


async def test_what_is_neither_address_nor_file_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(
        ModelError, match=r"--small qwen: no such file; give a GGUF file, a Hugging Face folder, or the address"
    ):
        await open_engine(model_at("qwen"), side="small")


async def test_the_key_of_a_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPROUTER_SMALL_KEY", "sesame")
    seen: list[str | None] = []

    async def props(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"error": "no"}, status=401)

    app = web.Application()
    app.router.add_get("/v1/models", props)
    async with serving(app) as url:
        with pytest.raises(ModelError, match="GLIMPROUTER_SMALL_KEY") as refused:
            await open_engine(model_at(url), side="small")
    assert seen == ["Bearer sesame"]
    assert "sesame" not in str(refused.value)
