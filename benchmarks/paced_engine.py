"""The scripted engine for long paced runs: it writes a schedule, place by place, and takes the time a real one would.

Each place of the schedule has a token of its own, so that what comes next follows from the last id alone and a thought
of 32,000 tokens costs nothing to continue. Time is spent with `asyncio.sleep`, on whatever clock the loop has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.schedule import ScheduledStep
from glimprouter.config import Sampling
from glimprouter.engines.scripted import distribution
from glimprouter.flow.engine import EngineFacts, Message, Session, Token, Usage

CONTEXT_TOKENS = 10**6
PROMPT_TOKENS = 120
BLOCK_TOKENS = 16
_OPEN, _CLOSE, _NEWLINES, _PROMPT = 0, 1, 2, 3
_FIRST = 10
_TEXTS = {_OPEN: "<think>\n", _CLOSE: "</think>", _NEWLINES: "\n\n", _PROMPT: "?"}


@dataclass(frozen=True, slots=True)
class Pace:
    """What an engine's work takes. Of a prefix, whole blocks are cached, and the last token is always read again."""

    token_ms: float
    first_token_ms: float
    prefill_tokens_per_s: float
    queue_ms: float = 0.0


PAPER_SMALL = Pace(12.8, 40.0, 5_000.0)
PAPER_LARGE = Pace(26.9, 90.0, 1_200.0)


class PacedEngine:
    """One model alone on its accelerator: requests are read one after the other, streams then run side by side."""

    def __init__(self, name: str, steps: Sequence[ScheduledStep], pace: Pace) -> None:
        self.name = name
        self.pace = pace
        self._texts = dict(_TEXTS)
        self._entropies: dict[int, float] = {}
        self._last = self._number(steps)
        self._seen: list[int] = []
        self._reading = asyncio.Lock()
        self.read_tokens = 0

    def _number(self, steps: Sequence[ScheduledStep]) -> int:
        place = _FIRST
        for step in steps:
            self._entropies[place] = step.entropy_nats
            for number in range(step.tokens):
                self._texts[place] = " w.\n\n" if number == step.tokens - 1 else " w"
                if number == step.tokens - 1:
                    self._texts[place] = f" {place}.\n\n"  # no step is the same as another
                place += 1
        return place

    async def facts(self) -> EngineFacts:
        template = "{# <think> </think> #}"
        return EngineFacts(self.name, CONTEXT_TOKENS, 151_936, "paced", template, cache_block_tokens=BLOCK_TOKENS)

    async def render(self, messages: Sequence[Message]) -> str:
        return "?" * PROMPT_TOKENS

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return [id_ for id_, known in _TEXTS.items() if known == text] if special else []

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return [_PROMPT] * PROMPT_TOKENS

    async def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._texts[id_] for id_ in ids)

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:
        usage.requests += 1
        usage.prompt_tokens = len(ids)
        usage.cached_tokens = await self._read(list(ids))
        tokens = self._tokens(ids[-1], max_tokens, top, usage)
        try:
            yield tokens
        finally:
            await tokens.aclose()

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        await self._read(list(ids))

    def leave(self, session: Session) -> None:
        """Nothing is kept for an answer."""

    async def close(self) -> None:
        """There is nothing to close."""

    def cached_of(self, ids: Sequence[int]) -> int:
        shared = 0
        limit = min(len(self._seen), len(ids))
        if self._seen[:limit] == list(ids[:limit]):
            shared = limit
        else:
            shared = next(place for place in range(limit) if self._seen[place] != ids[place])
        return min(shared, len(ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    async def _read(self, ids: list[int]) -> int:
        """Wait for the queue, the prefix, and the first token; how much of the prefix was cached."""
        pace = self.pace
        async with self._reading:
            cached = self.cached_of(ids)
            self.read_tokens += len(ids) - cached
            read_ms = (len(ids) - cached) / pace.prefill_tokens_per_s * 1000
            await asyncio.sleep((pace.queue_ms + pace.first_token_ms + read_ms) / 1000)
            self._seen = ids
        return cached

    async def _tokens(self, last: int, max_tokens: int, top: int, usage: Usage) -> AsyncGenerator[Token, None]:
        for number in range(max_tokens):
            if number:
                await asyncio.sleep(self.pace.token_ms / 1000)
            last = self._after(last)
            if last < 0:
                yield Token(-1, "", finish="stop")
                return
            usage.generated_tokens += 1
            seen = distribution(last, self._entropies.get(last, 0.05), top)
            yield Token(last, self._texts[last], seen[0][1] if seen else None, seen)
        yield Token(-1, "", finish="length")

    def _after(self, last: int) -> int:
        if last == _OPEN:
            return _FIRST
        if last in (_CLOSE, _NEWLINES):
            return -1
        return last + 1 if last + 1 < self._last else _CLOSE
