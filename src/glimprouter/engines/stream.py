"""The tokens of one streamed call, each with its id."""

from __future__ import annotations

import codecs
import math
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

from glimprouter.engines.connection import Connection
from glimprouter.engines.dialects import Draw, Event
from glimprouter.errors import EngineError
from glimprouter.flow.engine import Finish, Token, Usage

if TYPE_CHECKING:
    from glimprouter.engines.http import HttpEngine

_ROUNDING = 1e-3
_ANY_ID = 2**31 - 1
_ACCOUNTS_S = 0.5
"""How long the accounts may take that follow the last token."""

_MOST_SPARE_TOKENS = 30


class Stream:
    """The tokens of one call, each with its id.

    llama.cpp sends nothing for a token that ends within a character, and only counts it. The ids of such tokens are
    learnt from the text that the next token completes. Where that cannot be sure (bytes that are no UTF-8), the engine
    is set to continue from the ids of the text as shown, and a character cut off by the limit is drawn again: each
    time a new request, a leg, that continues the ids known so far.
    """

    def __init__(self, engine: HttpEngine, draw: Draw, usage: Usage, vocabulary_size: int) -> None:
        """`vocabulary_size` 0: unknown."""
        self._engine = engine
        self._draw = draw
        self._usage = usage
        self._most_id = most_id(vocabulary_size)
        self._ids: list[int] = []
        self._leg_start = 0
        self._drafted_before = (0, 0)
        self._spare_tokens = 0
        self._restarts = 0
        self._ready: deque[Token] = deque()
        self._held: Token | None = None  # it shows no text: perhaps the end token, which the next event tells
        self._ending: Finish | None = None
        self._done = False
        self._connection = Connection(engine, draw, allowed_s=self._allowed_s)

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while not self._ready:
            if self._done:
                raise StopAsyncIteration
            if not self._connection.is_open:
                await self.open()
            try:
                events = await self._connection.events()
            except EngineError:
                if self._ending is None:
                    raise
                # Its end was told; that the rest of the accounts is missing is no loss.
                self._end(self._ending, 0)
                break
            for event in events:
                await self._take_event(event)
                if not self._connection.is_open:
                    break
        self._connection.rest()
        return self._ready.popleft()

    async def open(self) -> None:
        """Begin a leg: the first one, or one that continues what is known by now."""
        self._usage.requests += 1
        await self._connection.open(self._next_leg())
        self._leg_start = len(self._ids)
        self._drafted_before = (self._usage.drafted_tokens, self._usage.accepted_tokens)

    def _next_leg(self) -> Draw:
        if not self._restarts:
            return self._draw
        draw = self._draw
        sampling = replace(draw.sampling, seed=(draw.sampling.seed + self._restarts) % 2**63)
        left = draw.max_tokens - len(self._ids) + self._spare_tokens
        return replace(draw, ids=[*draw.ids, *self._ids], sampling=sampling, max_tokens=left)

    def close(self) -> None:
        self._done = True
        self._connection.close()

    async def _take_event(self, event: Event) -> None:
        self._note_usage(event)
        missing = 0
        if event.drawn is not None:
            missing = event.drawn - (len(self._ids) - self._leg_start) - len(event.tokens)
        if missing < 0:
            raise self._engine.broken(f"{-missing} more tokens arrived than were drawn")
        if missing and event.finish is None:
            await self._recover(event.tokens[0], missing)
        else:
            tokens = event.tokens
            if event.joint_text:
                texts = await self._engine.texts_of([token.id for token in tokens], event.joint_text)
                tokens = [token._replace(text=text) for token, text in zip(tokens, texts, strict=True)]
            for token in tokens:
                self._take(token)
        if event.finish is not None:
            self._ending = event.finish
        if event.last:
            if self._ending is None:
                raise self._engine.lost("the stream ended without saying why")
            self._end(self._ending, missing)

    def _note_usage(self, event: Event) -> None:
        if event.drafted_tokens:
            drafted, accepted = self._drafted_before
            self._usage.drafted_tokens = drafted + event.drafted_tokens
            self._usage.accepted_tokens = accepted + event.accepted_tokens
        if self._restarts:
            return
        if event.prompt_tokens is not None:
            self._usage.prompt_tokens = event.prompt_tokens
        if event.cached_tokens is not None:
            self._usage.cached_tokens = event.cached_tokens

    def _take(self, token: Token) -> None:
        self._check(token)
        self._release()
        self._ids.append(token.id)
        if token.text:
            self._give(token)
        else:
            self._held = token
        if self._spare_tokens and len(self._ids) >= self._draw.max_tokens:
            self._finish("length")

    def _allowed_s(self) -> float:
        timeouts = self._engine.timeouts
        if self._ending is not None:
            return min(_ACCOUNTS_S, timeouts.between_tokens_s)
        return timeouts.between_tokens_s if self._ids else timeouts.first_token_s

    def _check(self, token: Token) -> None:
        check_token(token, self._most_id, self._engine)

    def _give(self, token: Token) -> None:
        self._usage.generated_tokens += 1
        self._ready.append(token)

    def _release(self) -> None:
        if self._held is not None:
            self._give(self._held)
            self._held = None

    def _finish(self, why: Finish) -> None:
        self._release()
        self._ready.append(Token(-1, "", finish=why))
        self.close()

    def _end(self, finish: Finish, missing: int) -> None:
        """The leg is over. Of an answer that ended by itself within a character, the half is dropped."""
        if finish == "stop":
            if self._held is not None and not missing:
                self._held = None
                self._ids.pop()
            self._finish("stop")
        elif missing and len(self._ids) < self._draw.max_tokens:
            self._restart(spare_tokens=self._spare_tokens + 3)
        else:
            self._finish("length")

    async def _recover(self, token: Token, missing: int) -> None:
        """`token` completes a character that `missing` tokens before it began."""
        self._check(token)
        self._release()
        recovery = self._engine.dialect.recovery
        if recovery is None:
            raise self._engine.broken(f"{missing} tokens were drawn and not sent")
        pieces = await self._engine.exchange(recovery.pieces, token.text)
        certain = len(pieces) == missing + 1 and pieces[-1].id == token.id
        if not certain or self._draw.top:
            self._restart()
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        for index, piece in enumerate(pieces):
            text = decode(piece.raw, final=index == len(pieces) - 1)
            if certain and piece is pieces[-1]:
                self._give(token._replace(text=text))
            else:
                prefix = [*self._draw.ids, *self._ids]
                top = await self._engine.exchange(recovery.top_after, prefix, self._draw.top) if self._draw.top else ()
                self._give(Token(piece.id, text, dict(top).get(piece.id), top))
            self._ids.append(piece.id)
            if len(self._ids) >= self._draw.max_tokens:
                self._finish("length")
                return

    def _restart(self, *, spare_tokens: int = 0) -> None:
        """Have the next leg begin at the ids known by now."""
        self._connection.close()
        self._spare_tokens = spare_tokens
        self._restarts += 1
        if spare_tokens > _MOST_SPARE_TOKENS:
            raise self._engine.broken("the tokens it draws end in no whole character")


def most_id(vocabulary_size: int) -> int:
    return vocabulary_size - 1 if vocabulary_size else _ANY_ID


def check_token(token: Token, most: int, engine: HttpEngine) -> None:
    """Cheap enough for every token; the log-probabilities of others are checked where they are looked at."""
    if not 0 <= token.id <= most:
        raise engine.broken(f"id {token.id} is outside the vocabulary of {most + 1}")
    if token.logprob is not None and not -math.inf <= token.logprob <= _ROUNDING:
        raise engine.broken(f"log-probability {token.logprob} of id {token.id}")
