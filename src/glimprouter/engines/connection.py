"""The connection that a streamed reply comes over, watched by the clock."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from glimprouter.engines.dialects import Draw, Event
from glimprouter.engines.http_client import Reply

if TYPE_CHECKING:
    from glimprouter.engines.http import HttpEngine


class Connection:
    """One streamed reply after the other, watched by the clock while somebody waits for it."""

    def __init__(self, engine: HttpEngine, draw: Draw, *, allowed_s: Callable[[], float]) -> None:
        """`allowed_s` tells how long the next token may take."""
        self._engine = engine
        self._draw = draw
        self._allowed_s = allowed_s
        self._reply: Reply | None = None
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + engine.timeouts.total_s
        self._deadline = math.inf
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._reply is not None

    async def open(self, draw: Draw) -> None:
        generate = self._engine.dialect.generate
        allowed_s = self._allowed_s()
        try:
            async with asyncio.timeout(allowed_s):
                reply = await self._engine.request(generate.path, generate.body(draw), draw.session, stream=True)
                if reply.content_type != "text/event-stream":
                    self._engine.refuse_broken(await reply.read(), ValueError("not a stream"))
        except TimeoutError:
            raise self._engine.late("no token", allowed_s) from None
        except OSError as error:
            raise self._engine.lost(error) from error
        self._reply = reply
        self._rest = b""

    def close(self) -> None:
        """Hang up, which stops the engine. llama.cpp closes the connection after a stream anyway."""
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rest(self) -> None:
        """Nobody waits now: the clock stands still."""
        self._deadline = math.inf

    async def events(self) -> list[Event]:
        """What has arrived, waiting for it if need be; may be nothing yet."""
        data = await self._receive()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        draw = self._draw
        return [self._engine.read_event(line, draw) for line in lines if line.startswith((b"data:", b"error:"))]

    async def _receive(self) -> bytes:
        reply = self._reply
        assert reply is not None
        self._watch()
        try:
            data = await reply.read_some()
        except ConnectionError as error:
            if not self._expired:
                raise self._engine.lost(error) from error
            if self._loop.time() >= self._ends:
                raise self._engine.late("no end of the stream", self._engine.timeouts.total_s) from None
            raise self._engine.late("no token", self._allowed_s()) from None
        if not data:
            raise self._engine.lost("the stream ended without its last event")
        return data

    def _watch(self) -> None:
        """One lazy timer: to set one for every token would cost as much as reading it.

        The deadline stays while only comments arrive, which servers send to keep the connection alive.
        """
        now = self._loop.time()
        self._deadline = min(self._deadline, now + self._allowed_s(), self._ends)
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            if self._deadline < math.inf:
                self._timer = self._loop.call_at(self._deadline, self._expire)
        elif self._reply is not None:
            self._expired = True
            self._reply.close()
