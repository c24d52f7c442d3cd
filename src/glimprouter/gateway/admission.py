"""How many answers are written at once, how many wait for that, and how long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from glimprouter.gateway.errors import ApiError


class Admission:
    """First come, first served. Its limits may be changed at any time."""

    def __init__(self, *, max_in_flight: int, max_queue: int, queue_timeout_s: float) -> None:
        self.set_limits(max_in_flight=max_in_flight, max_queue=max_queue, queue_timeout_s=queue_timeout_s)
        self.in_flight = 0
        self.draining = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def set_limits(self, *, max_in_flight: int, max_queue: int, queue_timeout_s: float) -> None:
        self._max_in_flight = max_in_flight
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Around one answer. Raises ApiError 503 where the queue is full, the wait too long, or the end near."""
        if self.draining:
            raise full("the gateway is going down")
        if self.in_flight >= self._max_in_flight or self._waiting:
            await self._wait()
        else:
            self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._admit()

    async def _wait(self) -> None:
        if len(self._waiting) >= self._max_queue:
            raise full("the queue is full")
        ticket = asyncio.get_running_loop().create_future()
        self._waiting.append(ticket)
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await ticket
        except BaseException as error:
            if ticket.done() and not ticket.cancelled():
                # Admitted in the very moment of giving up: hand the place on.
                self.in_flight -= 1
                self._admit()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            if isinstance(error, TimeoutError):
                raise full("no place came free in time") from None
            raise

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self._max_in_flight:
            ticket = self._waiting.popleft()
            if not ticket.done():
                self.in_flight += 1
                ticket.set_result(None)


def full(why: str) -> ApiError:
    return ApiError(503, f"{why}; come again later", code="overloaded", retry_after_s=1, retry=True)
