"""What a scripted engine costs: one device that queues, reads prompts and writes tokens, and remembers what it read.

It is modelled like a vLLM server with one GPU. A prompt waits in the queue, then for the way there and back
(`first_token_ms`), then it is read, one prompt at a time: while one is read no other is, and no answer gets a token. A
reading begun goes to its end and stays in the cache, also where the call is given up meanwhile; one not begun yet never
takes place. Tokens of several answers are written at once at no extra cost, and with a clock they are written whether
or not somebody takes them, as servers do until their client goes away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from glimprouter.engines.slots import shared_tokens

REMEMBERED_PREFIXES = 16

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pace:
    """What things cost, in milliseconds.

    The first token of a call, or the end of one that draws nothing, comes after `queue_ms`, `first_token_ms` and
    `prefill_token_ms` for every token of the prompt that is not cached. What is cached is whole blocks of
    `block_tokens`, never the last token of a prompt.
    """

    first_token_ms: float = 0.0
    token_ms: float = 0.0
    prefill_token_ms: float = 0.0
    queue_ms: float = 0.0
    block_tokens: int = 1


class Device:
    """Takes the time that a pace says, on the sleep and clock it is given (seconds)."""

    def __init__(self, pace: Pace, sleep: Sleep, clock: Clock | None = None) -> None:
        """Without a clock a token is written only when it is asked for."""
        self.pace = pace
        self.clock = clock
        self._sleep = sleep
        self._prefixes: deque[list[int]] = deque(maxlen=REMEMBERED_PREFIXES)
        self._free = asyncio.Lock()
        self._reading: set[asyncio.Task[int]] = set()

    async def read(self, ids: list[int]) -> int:
        """Read a prompt; how much of it was cached. The list is kept: tokens added to it later are cached as well."""
        await self.spend(self.pace.queue_ms + self.pace.first_token_ms)
        await self._free.acquire()
        if not self.pace.prefill_token_ms:
            return await self._process(ids)
        task = asyncio.create_task(self._process(ids))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return await asyncio.shield(task)

    async def is_free(self) -> bool:
        """Wait for a reading under way; whether there was none."""
        if not self._reading:
            return True
        async with self._free:
            return False

    async def close(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def _process(self, ids: list[int]) -> int:
        """Read on the device that was taken for it, then leave it to others."""
        try:
            cached_tokens = self.cached_tokens(ids)
            await self.spend(self.pace.prefill_token_ms * (len(ids) - cached_tokens))
            self._prefixes.append(ids)
            return cached_tokens
        finally:
            self._free.release()

    def cached_tokens(self, ids: list[int]) -> int:
        """How much of a prompt was seen before, in whole blocks; the last token is always processed, as in vLLM."""
        shared = max((shared_tokens(seen, ids) for seen in self._prefixes), default=0)
        block_tokens = self.pace.block_tokens
        return max(0, min(shared, len(ids) - 1)) // block_tokens * block_tokens

    async def spend(self, duration_ms: float) -> None:
        if duration_ms > 0:
            await self._sleep(duration_ms / 1000)


class Writing:
    """The tokens of one call after its first, which is there when this is made."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last_s = device.clock() if device.clock else 0.0

    async def token(self) -> None:
        """Wait for one more; not at all for one that was written while nobody asked."""
        device, clock = self._device, self._device.clock
        was_free = await device.is_free()
        if clock is None:
            await device.spend(device.pace.token_ms)
            return
        if not was_free:
            self._last_s = clock()
        self._last_s += device.pace.token_ms / 1000
        await device.spend((self._last_s - clock()) * 1000)

    def waiting_tokens(self) -> int:
        """How many were written that nobody took."""
        clock, token_ms = self._device.clock, self._device.pace.token_ms
        return int((clock() - self._last_s) * 1000 / token_ms + 1e-6) if clock and token_ms else 0
