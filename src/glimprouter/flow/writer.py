"""One model's side of one answer: the ids of everything so far in its own vocabulary, and its open stream.

A writer's own tokens are kept as drawn. What the other model wrote is taken over once, when this one is next needed:
as ids where the vocabularies agree, else encoded from text. While it is idle it may be kept warm: the engine reads
what has been written meanwhile, so that a hand-over costs a token and not a prefill.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b

from glimprouter.config import Sampling, Side
from glimprouter.errors import ContextError, EngineError, EngineProtocolError
from glimprouter.flow.engine import Engine, Session, Token, Usage
from glimprouter.flow.glimpse import Glimpse, glimpse_of
from glimprouter.flow.prompt import Prompt
from glimprouter.flow.trace import ModelUsage


@dataclass(frozen=True, slots=True)
class Passage:
    """Text that somebody else set into the thought. `ids` are its ids in `vocabulary`; None means encode the text."""

    text: str
    ids: tuple[int, ...] | None
    vocabulary: str


@dataclass(frozen=True, slots=True)
class Place:
    """A point in a writer's text, counted in its own ids, and how many tokens it might still draw there."""

    tokens: int
    tokens_left: int


@dataclass(frozen=True, slots=True)
class Aside:
    """What a model is asked beside its writing: passages it reads first, then `ids`, to which a reply is begun.

    `top`: how many log-probabilities of the reply are wanted.
    """

    passages: tuple[Passage, ...]
    ids: tuple[int, ...]
    top: int


_GREEDY = Sampling(temperature=0.0, top_p=1.0)


MOST_BLANK_TOKENS = 16
"""After so much white space in a row the next token is glimpsed, whatever it is."""

DEAR_TOKENS = 256
"""A hand-over waits for a warming that reads more than this; a smaller one is dropped, for reading again is cheaper."""


QUEUES = 4.0
"""How many times longer than the quickest a warming takes, token for token, when it has to queue."""


@dataclass(slots=True)
class Traffic:
    """How many streams and warmings a router has under way on one engine, over all its answers."""

    calls: int = 0


class Writer:
    """Draws tokens for one model. `ahead` holds tokens drawn but not yet taken (the glimpse is one of them)."""

    def __init__(
        self,
        side: Side,
        engine: Engine,
        prompt: Prompt,
        sampling: Sampling,
        session: Session,
        *,
        top: int,
        usage: ModelUsage,
        traffic: Traffic,
        warm_beside_calls: int,
    ) -> None:
        """`top` is how many log-probabilities to ask for with every token; 0 for a side that is never glimpsed.

        `traffic` is shared by all writers on the engine; beside more than `warm_beside_calls` nothing is read ahead.
        """
        self.side = side
        self.facts = prompt.facts
        self.prompt = prompt
        self.usage = usage
        self._engine = engine
        self._ids = list(prompt.ids)
        self._sampling = sampling
        self._session = session
        self._top = top
        self._tokens_left = prompt.room_tokens
        self._traffic = traffic
        self._warm_beside_calls = warm_beside_calls
        self._heard: list[Passage] = []
        self._ahead: deque[Token] = deque()
        self._stream: AsyncIterator[Token] | None = None
        self._context: AbstractAsyncContextManager[AsyncIterator[Token]] | None = None
        self._call = Usage()
        self._taken_of_call = 0
        self._warming: asyncio.Task[None] | None = None
        self._warming_tokens = 0
        self._best_pace_s = math.inf
        self._overtaken = self._pass_over = 0
        self._read_tokens = 0
        self.attempt = 0
        """Counts the drafts of a step: each is drawn from a seed of its own."""

    @property
    def is_open(self) -> bool:
        """Whether the next token continues a stream that is already open."""
        return self._stream is not None and not self._heard

    def hear(self, *passages: Passage) -> None:
        """Note what others wrote while this writer was stopped; it is taken over when next a token is drawn."""
        self._heard += passages

    def shares_ids_with(self, other: Writer) -> bool:
        """Whether ids of the other model's text mean the same here, so that any part of it may be taken over alone."""
        return self.facts.vocabulary == other.facts.vocabulary

    def warm(self) -> None:
        """Have the engine read, in the background, what it has not read yet. At most one such request at a time.

        It costs other answers their time, so it is done only where few of them have the engine at work.
        A request that takes far longer for its length than the quickest did waits in the engine's queue: as many
        chances as were missed meanwhile are passed over afterwards, so that a busy engine is asked ever less.
        """
        if self._warming is not None and not self._warming.done():
            self._overtaken += 1
        elif self._pass_over:
            self._pass_over -= 1
        elif self._is_quiet and self._would_cache_more():
            self._warming = asyncio.create_task(self._read_ahead())

    @property
    def _is_quiet(self) -> bool:
        return self._traffic.calls <= self._warm_beside_calls

    def _would_cache_more(self) -> bool:
        """Whether reading now would fill at least one more of the blocks that the engine caches."""
        block = self.facts.cache_block_tokens
        heard = sum(len(passage.ids or ()) or len(passage.text) // 3 for passage in self._heard)
        return (len(self._ids) + heard) // block > self._read_tokens // block

    async def _read_ahead(self) -> None:
        """Until all is read. Never fails: what is wrong with the engine, or too much for it, shows when it is used."""
        now = asyncio.get_running_loop().time
        with suppress(EngineError, ContextError):
            while self._is_quiet and self._would_cache_more() and not self._pass_over:
                self._overtaken = 0
                begun = now()
                await self._take_over()
                await self._prefill()
                pace_s = (now() - begun) / max(1, self._warming_tokens)
                self._best_pace_s = min(self._best_pace_s, pace_s)
                if pace_s > QUEUES * self._best_pace_s:
                    self._pass_over = self._overtaken

    async def _prefill(self) -> None:
        ids = self._ids.copy()
        self._warming_tokens = len(ids) - self._read_tokens
        self.usage.warm_calls += 1
        self.usage.warm_tokens += self._warming_tokens
        self._traffic.calls += 1
        try:
            await self._engine.prefill(ids, session=self._session)
        finally:
            self._traffic.calls -= 1
        self._read_tokens = len(ids)

    async def _settle(self) -> None:
        """The model is needed now: a warming under way is dropped, or waited for where it reads much."""
        task, self._warming = self._warming, None
        if task is None or task.done():
            return
        if self._warming_tokens <= DEAR_TOKENS:
            task.cancel()
        await asyncio.wait({task})

    async def look(self, step_index: int, tokens: int = 1) -> Glimpse:
        """The distribution of the next visible token, with the entropies of the `tokens` - 1 after it.

        What is read for it stays ahead, to be taken or thrown away.
        """
        await self._follow()
        for place in range(MOST_BLANK_TOKENS + 1):
            if place == len(self._ahead):
                self._ahead.append(await self._draw(step_index))
            token = self._ahead[place]
            if token.id >= 0 and (not token.text.isspace() or place == MOST_BLANK_TOKENS):
                glimpse = glimpse_of(token, self.facts.vocabulary_size)
                further = await self._look_further(step_index, place, tokens - 1) if tokens > 1 else ()
                return replace(glimpse, next_nats=further) if further else glimpse
            if token.finish is not None:
                return _certain(token)
        raise AssertionError("unreachable")

    async def _look_further(self, step_index: int, place: int, count: int) -> tuple[float, ...]:
        """Entropies (nats) of `count` tokens after the one at `place`; fewer where paragraph or thought end."""
        seen: list[float] = []
        ends = ("\n\n", self.prompt.format.close_tag)
        while len(seen) < count:
            before = self._ahead[place]
            if before.finish is not None or any(end in before.text for end in ends):
                break
            place += 1
            token = await self.peek(place, step_index)
            if token.id < 0 or not token.top:
                break
            seen.append(glimpse_of(token, self.facts.vocabulary_size).entropy_nats)
        return tuple(seen)

    async def peek(self, place: int, step_index: int) -> Token:
        """A token to come, 0 being the next; it stays ahead, to be taken or thrown away."""
        while len(self._ahead) <= place:
            self._ahead.append(await self._draw(step_index))
        return self._ahead[place]

    async def take(self, step_index: int) -> Token:
        """The next token, now part of this writer's text."""
        if self._heard or self._warming is not None:
            await self._follow()
        token = self._ahead.popleft() if self._ahead else await self._draw(step_index)
        if token.id >= 0:
            self._ids.append(token.id)
            self._taken_of_call += 1
            self.usage.new_tokens += 1
            self._tokens_left -= 1
        if token.finish is not None:
            await self.stop()
        return token

    async def here(self) -> Place:
        """Where this writer stands, everything heard taken over: a place to go back to."""
        await self._follow()
        return Place(len(self._ids), self._tokens_left)

    async def go_back(self, place: Place) -> None:
        """Throw away what was taken since, and go on from there."""
        await self.stop()
        self.forget(place)

    def forget(self, place: Place) -> None:
        """What was taken since counts as discarded and is no more part of this writer's text."""
        thrown = len(self._ids) - place.tokens
        del self._ids[place.tokens :]
        self._read_tokens = min(self._read_tokens, place.tokens)
        self._tokens_left = place.tokens_left
        self.usage.new_tokens -= thrown
        self.usage.discarded_tokens += thrown

    def retake(self, ids: Sequence[int]) -> None:
        """Take tokens of this writer's own that were thrown away, after all."""
        self._ids += ids
        self._tokens_left -= len(ids)
        self.usage.new_tokens += len(ids)
        self.usage.discarded_tokens -= len(ids)

    async def reply(self, aside: Aside, *, place: Place | None, call: Usage) -> Token | None:
        """The likeliest first token of a reply to something asked aside: nothing of it becomes this writer's text.

        `place`: ask as from there. None where the context has no room left for it.
        """
        await self._follow()
        await self.stop()
        ids = self._ids[: place.tokens] if place else self._ids.copy()
        self._read_tokens = len(ids)
        for passage in aside.passages:
            ids += await self._ids_of(passage)
        ids += aside.ids
        if len(ids) >= self.facts.context_tokens:
            return None
        self._traffic.calls += 1
        try:
            async with self._engine.generate(
                ids, _GREEDY, max_tokens=1, top=min(aside.top, self.facts.most_top), usage=call, session=self._session
            ) as tokens:
                # To its end: a stream that is left early costs a connection.
                drawn = [token async for token in tokens]
        finally:
            self._traffic.calls -= 1
            self.usage.calls += call.requests
            self.usage.prompt_tokens += call.prompt_tokens
            self.usage.cached_tokens += call.cached_tokens
            self.usage.aside_calls += 1
            self.usage.aside_tokens += call.generated_tokens
        return drawn[0] if drawn and drawn[0].id >= 0 else None

    async def _ids_of(self, passage: Passage) -> Sequence[int]:
        return passage.ids or () if self._shares_ids_with(passage) else await self._engine.encode(passage.text)

    async def stop(self) -> None:
        """Close the stream; the engine stops at once. Tokens nobody took count as discarded."""
        context, self._context, self._stream = self._context, None, None
        self._ahead.clear()
        if context is None:
            return
        self._traffic.calls -= 1
        try:
            await context.__aexit__(None, None, None)
        finally:
            # What it drew itself it has read: there is nothing to warm until others have written.
            self._read_tokens = len(self._ids)
            self.usage.calls += self._call.requests
            self.usage.prompt_tokens += self._call.prompt_tokens
            self.usage.cached_tokens += self._call.cached_tokens
            self.usage.discarded_tokens += max(0, self._call.generated_tokens - self._taken_of_call)
            self.usage.drafted_tokens += self._call.drafted_tokens
            self.usage.accepted_tokens += self._call.accepted_tokens

    async def close(self) -> None:
        """Leave the engine alone for good."""
        task, self._warming = self._warming, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
        await self.stop()
        self._engine.leave(self._session)

    async def _follow(self) -> None:
        """Be at the end of the common text, ready to draw."""
        await self._settle()
        if self._heard:
            await self.stop()
            await self._take_over()

    async def _take_over(self) -> None:
        """Turn what was heard into ids of this model's own, passage by passage; a failure loses none of them."""
        while self._heard:
            text, count = "", 0
            for passage in self._heard:
                if self._shares_ids_with(passage):
                    break
                text, count = text + passage.text, count + 1
            if count:
                ids = await self._engine.encode(text) if text else []
            else:
                ids, count = list(self._heard[0].ids or ()), 1
            self._ids += ids
            self._tokens_left -= len(ids)
            del self._heard[:count]

    def _shares_ids_with(self, passage: Passage) -> bool:
        """Models of a family may number the same tokens alike and pad their vocabularies differently."""
        if passage.ids is None or passage.vocabulary != self.facts.vocabulary:
            return False
        size = self.facts.vocabulary_size
        return not size or max(passage.ids, default=0) < size

    async def _encode(self, text: str) -> None:
        if text:
            ids = await self._engine.encode(text)
            self._ids += ids
            self._tokens_left -= len(ids)

    async def _draw(self, step_index: int) -> Token:
        if self._stream is None:
            self._stream = await self._open(step_index)
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise EngineProtocolError(
                f"{self._engine.name} ended a stream without saying why", engine=self._engine.name
            ) from None

    async def _open(self, step_index: int) -> AsyncIterator[Token]:
        sampling = replace(self._sampling, seed=derived_seed(self._sampling.seed, step_index, self.side, self.attempt))
        self._call, self._taken_of_call = Usage(), 0
        self._context = self._engine.generate(
            self._ids,
            sampling,
            max_tokens=max(1, self._tokens_left),
            top=self._top,
            usage=self._call,
            session=self._session,
        )
        self._traffic.calls += 1
        stream = await self._context.__aenter__()
        self._read_tokens = len(self._ids)
        return stream

    async def close_thought(self, lead: str) -> None:
        """Close the thought in this model's own tags: `lead`, closing tag, and what stands before the answer."""
        await self._follow()
        await self.stop()
        await self._encode(lead)
        self._ids += (*self.prompt.close_ids, *self.prompt.after_ids)

    def allow(self, tokens: int) -> None:
        """How many tokens the next call may draw; a stream already open keeps what it was given."""
        self._tokens_left = max(1, min(tokens, self.facts.context_tokens - len(self._ids)))


def derived_seed(seed: int, step_index: int, side: Side, attempt: int = 0) -> int:
    """A seed of its own for each step, side and attempt of an answer, the same for the same answer seed."""
    drawn = f"{seed}/{step_index}/{side}" + (f"/{attempt}" if attempt else "")
    return int.from_bytes(blake2b(drawn.encode(), digest_size=4).digest(), "big")


class WriterPair(AsyncExitStack):
    """Both writers of an answer; leaving it stops both engines, whatever happened."""

    def __init__(self, small: Writer, large: Writer) -> None:
        super().__init__()
        self._writers: dict[Side, Writer] = {"small": small, "large": large}
        self.push_async_callback(large.close)
        self.push_async_callback(small.close)

    def __getitem__(self, side: Side) -> Writer:
        return self._writers[side]

    def other(self, side: Side) -> Writer:
        return self._writers["large" if side == "small" else "small"]


def _certain(token: Token) -> Glimpse:
    """The end of a stream is not a token: nothing was drawn that could be uncertain."""
    return Glimpse(0.0, 0.0, 0.0, 1.0, token.id, "", ())
