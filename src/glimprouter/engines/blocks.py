"""The tokens of one call that is made in blocks: blocking requests of some tokens each, handed out as if streamed.

For servers that cannot stream, and where a token costs less than its chunk. The next block is asked for when somebody
asks for a token that is not there yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

from glimprouter.engines.dialects import Draw, Whole
from glimprouter.engines.stream import check_token, most_id
from glimprouter.flow.engine import Finish, Token, Usage

if TYPE_CHECKING:
    from glimprouter.engines.http import HttpEngine

_LONGEST_CHARACTER = 4
_BROKEN = "\ufffd"


class Blocks:
    """The tokens of one call, each with its id. Leaving it while a block is under way hangs up, which stops the engine.

    A block may end within a character: the tokens that begin it show no text, the one that completes it carries all.
    """

    def __init__(self, engine: HttpEngine, draw: Draw, usage: Usage, vocabulary_size: int) -> None:
        """`vocabulary_size` 0: unknown."""
        self._engine = engine
        self._draw = draw
        self._usage = usage
        self._most_id = most_id(vocabulary_size)
        self._ids: list[int] = []
        self._begun: list[int] = []
        self._blocks = 0
        self._ready: deque[Token] = deque()
        self._done = False

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while not self._ready:
            if self._done:
                raise StopAsyncIteration
            await self._next_block()
        return self._ready.popleft()

    async def open(self) -> None:
        """Nothing is asked for yet."""

    def close(self) -> None:
        self._done = True

    async def _next_block(self) -> None:
        leg = self._leg()
        whole = await self._engine.whole(leg, self._usage)
        self._blocks += 1
        texts = await self._texts(whole)
        for token, text in zip(whole.tokens, texts, strict=True):
            check_token(token, self._most_id, self._engine)
            top = token.top if self._draw.top else ()
            if self._draw.top and not token.top:
                top = await self._top_here()
            self._ids.append(token.id)
            self._ready.append(token._replace(text=text, top=top))
        if self._is_end(whole, leg):
            self._finish(whole.finish)

    def _leg(self) -> Draw:
        draw = self._draw
        sampling = replace(draw.sampling, seed=(draw.sampling.seed + self._blocks) % 2**63)
        most = min(draw.max_tokens - len(self._ids), self._engine.block_tokens)
        # Where the reply leaves out tokens that show no text, one log-probability each tells which.
        top = draw.top or int(self._engine.dialect.recovery is not None)
        return replace(draw, ids=[*draw.ids, *self._ids], sampling=sampling, max_tokens=most, top=top)

    def _is_end(self, whole: Whole, leg: Draw) -> bool:
        if whole.finish == "stop" or len(self._ids) >= self._draw.max_tokens:
            return True
        # Less than asked for: the context is full. In text mode our numbers are not the server's tokens.
        return not whole.ids if not self._engine.dialect.takes_ids else len(whole.ids) < leg.max_tokens

    def _finish(self, why: Finish) -> None:
        self._ready.append(Token(-1, "", finish=why))
        self._done = True

    async def _top_here(self) -> tuple[tuple[int, float], ...]:
        """The log-probabilities that a reply leaves out at tokens that end within a character."""
        recovery = self._engine.dialect.recovery
        if recovery is None:
            return ()
        return await self._engine.exchange(recovery.top_after, [*self._draw.ids, *self._ids], self._draw.top)

    async def _texts(self, whole: Whole) -> list[str]:
        """The text of each token of a block, where the server tells only that of all together."""
        told = [token.text for token in whole.tokens]
        if not self._engine.dialect.takes_ids or (all(told) and _BROKEN not in whole.text and not self._begun):
            return told
        ids = [*self._begun, *whole.ids]
        tail = await self._unfinished(ids) if whole.finish != "stop" else 0
        whole_ids = ids[: len(ids) - tail]
        joint = await self._engine.decode(whole_ids) if self._begun or tail else whole.text
        texts = [*await self._engine.texts_of(whole_ids, joint), *[""] * tail]
        begun = len(self._begun)
        self._begun = ids[len(ids) - tail :]
        return texts[begun:]

    async def _unfinished(self, ids: list[int]) -> int:
        """How many ids at the end begin a character that is not complete yet."""
        if not ids or not (await self._engine.text_of(ids[-1])).endswith(_BROKEN):
            return 0
        if not (await self._engine.decode(ids[-2 * _LONGEST_CHARACTER :])).endswith(_BROKEN):
            return 0
        for tail in range(min(len(ids), _LONGEST_CHARACTER - 1), 1, -1):
            if await self._engine.decode(ids[-tail:]) == _BROKEN:
                return tail
        return 1
