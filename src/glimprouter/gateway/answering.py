"""One routed answer, from the router's events to a client's bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

import msgspec

from glimprouter.flow.answer import Event, Finished, Started, StepFinished, Text
from glimprouter.flow.request import Request
from glimprouter.flow.trace import Trace
from glimprouter.gateway.errors import ApiError
from glimprouter.gateway.reply import Form, error_event, evidence_headers, evidence_of, written_tokens
from glimprouter.gateway.wire import Asked
from glimprouter.router import Router

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]


async def within(router: Router, request: Request, max_tokens: int | None) -> AsyncGenerator[Event, None]:
    """The router's events, ended where thought and answer together have `max_tokens`."""
    trace: Trace | None = None
    async with aclosing(router.stream(request)) as events:
        async for event in events:
            if max_tokens is None or isinstance(event, Finished):
                yield event
                continue
            yield event
            ended = isinstance(event, StepFinished) or (isinstance(event, Text) and event.part == "answer")
            if isinstance(event, Started):
                trace = event.trace
            if ended and trace is not None and written_tokens(trace) >= max_tokens:
                break
        else:
            return
    assert trace is not None
    trace.error = None
    if trace.answer is not None:
        trace.answer.end = "length"
    yield Finished(trace)


class Reply:
    """What is sent for one request. Nothing is sent before the first text: a failure until then has a status."""

    def __init__(self, send: Send, headers: Pairs) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        self.client = "none"
        self._streams = False

    async def whole(self, status: int, body: bytes, headers: Pairs) -> None:
        self.status = status
        length = (b"content-length", str(len(body)).encode())
        kind = (b"content-type", b"application/json")
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*self._headers, kind, length, *headers]}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def part(self, data: bytes, *, last: bool = False) -> None:
        if not self._streams:
            self._streams = True
            self.status = 200
            headers = [*self._headers, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def fail(self, error: ApiError) -> None:
        if self._streams:
            await self.part(error_event(error.body()), last=True)
        elif not self.status:
            await self.whole(error.status, error.body(), error.headers())

    @property
    def streams(self) -> bool:
        return self._streams


async def write_answer(
    reply: Reply, router: Router, asked: Asked, form: Form, *, begun: float, heartbeat_s: float,
    on_step: Callable[[StepFinished], None], on_trace: Callable[[Trace], None],
) -> None:  # fmt: skip
    """Streamed or whole, as asked. Raises ApiError where an engine failed; `begun` is by time.perf_counter (s)."""
    assert asked.request is not None
    before_router_ms = (time.perf_counter() - begun) * 1000
    texts: dict[str, list[str]] = {"thought": [], "answer": []}
    beat = Heartbeat(reply, form, heartbeat_s) if asked.stream else None
    trace: Trace | None = None
    try:
        async with aclosing(within(router, asked.request, asked.max_tokens)) as events:
            async for event in events:
                if isinstance(event, Text):
                    if beat is not None:
                        await beat.send(form.text(event))
                    else:
                        texts[event.part].append(event.text)
                elif isinstance(event, StepFinished):
                    on_step(event)
                    if beat is not None and asked.trace:
                        await beat.send(form.extension({"step": msgspec.to_builtins(event.step)}))
                elif isinstance(event, Started):
                    trace = event.trace
    finally:
        if beat is not None:
            beat.stop()
        if trace is not None:
            on_trace(trace)
    assert trace is not None
    await _end(reply, trace, asked, form, beat, texts, before_router_ms)


async def _end(
    reply: Reply,
    trace: Trace,
    asked: Asked,
    form: Form,
    beat: Heartbeat | None,
    texts: dict[str, list[str]],
    before_router_ms: float,
) -> None:
    if trace.error is not None:
        raise ApiError(502, "an engine failed inside the answer", code="engine_failed", retry=not trace.steps)
    evidence = evidence_of(trace, before_router_ms)
    extension = evidence | ({"trace": msgspec.to_builtins(trace)} if asked.trace else {})
    if beat is not None:
        await beat.send(form.ending(trace, extension), last=True)
        return
    body = form.whole(trace, "".join(texts["thought"]).strip("\n"), "".join(texts["answer"]), extension)
    await reply.whole(200, body, evidence_headers(evidence))


class Heartbeat:
    """Sends chunks, and an empty one whenever nothing else was sent for `every_s`."""

    def __init__(self, reply: Reply, form: Form, every_s: float) -> None:
        self._reply, self._form, self._every_s = reply, form, every_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._task = asyncio.create_task(self._beat())

    async def send(self, data: bytes, *, last: bool = False) -> None:
        self._sent_at = self._loop.time()
        if not self._reply.streams:
            data = self._form.opening() + data
        await self._reply.part(data, last=last)

    def stop(self) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(max(0.01, self._sent_at + self._every_s - self._loop.time()))
            if self._loop.time() - self._sent_at >= self._every_s:
                await self.send(self._form.heartbeat())
