"""A proxy on loopback that stands before a server and spoils some of its replies, each in one of the ways they fail."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp import web

Fault = Literal["refuse", "reset", "stall", "503", "503-retry-after"]
FAULTS: tuple[Fault, ...] = ("refuse", "reset", "stall", "503", "503-retry-after")
"""Hang up before a byte, hang up within the reply, say nothing more within it, or answer 503 with or without
Retry-After (0 s)."""

MOST_BEFORE_BYTES = 1500
"""A reply is spoilt within so many of its first bytes."""


@dataclass(frozen=True, slots=True)
class Spoil:
    """What befalls one reply, and after how many of its bytes."""

    fault: Fault
    after_bytes: int = 0


Plan = Callable[[web.Request], Spoil | None]


def at_random(
    share: float, chance: random.Random, faults: Sequence[Fault] = FAULTS, most_bytes: int = MOST_BEFORE_BYTES
) -> Plan:
    """Spoils a share of all requests, whatever they ask for."""

    def plan(_: web.Request) -> Spoil | None:
        if chance.random() >= share:
            return None
        return Spoil(chance.choice(faults), chance.randint(1, most_bytes))

    return plan


class FaultyProxy:
    """`requests` that came and `faults` that befell them; nothing is spoilt while `plan` is None.

    A reply that was over before its fault was due is none.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.plan: Plan | None = None
        self.requests = 0
        self.faults: Counter[Fault] = Counter()
        self._upstream = upstream
        self._session = session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionError:  # the reader has gone
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        spoil = self.plan(request) if self.plan is not None else None
        if spoil is None or spoil.fault in ("reset", "stall"):
            return await self._forward(request, spoil)
        self.faults[spoil.fault] += 1
        if spoil.fault == "refuse":
            hang_up(request)
            return web.Response()
        headers = {"Retry-After": "0"} if spoil.fault == "503-retry-after" else {}
        return web.json_response({"error": {"message": "busy", "code": 503}}, status=503, headers=headers)

    async def _forward(self, request: web.Request, spoil: Spoil | None) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=await request.read(), headers=headers
        ) as reply:
            answer = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.headers["Content-Type"]})
            await answer.prepare(request)
            left = spoil.after_bytes if spoil is not None else 0
            async for chunk in reply.content.iter_any():
                if spoil is not None and len(chunk) >= left:
                    await answer.write(chunk[:left])
                    await self._spoil(spoil.fault, request)
                    return answer
                left -= len(chunk)
                await answer.write(chunk)
            await answer.write_eof()
            return answer

    async def _spoil(self, fault: Fault, request: web.Request) -> None:
        self.faults[fault] += 1
        if fault == "stall":
            await asyncio.Event().wait()  # until the reader hangs up, which cancels this
        # What was written shall leave before the connection is torn down.
        await asyncio.sleep(0.002)
        hang_up(request)


def hang_up(request: web.Request) -> None:
    """Reset the connection."""
    if request.transport is not None:
        request.transport.abort()


@asynccontextmanager
async def faulty_proxy(upstream: str) -> AsyncIterator[FaultyProxy]:
    """A proxy before a server at `upstream`, on a port of its own."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        proxy = FaultyProxy(upstream, session)
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
            yield proxy
        finally:
            await runner.cleanup()
