"""A server's own tokenizer and template, asked over its routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glimprouter.engines.dialects import Exchange
from glimprouter.errors import ModelError
from glimprouter.flow.engine import Message

if TYPE_CHECKING:
    from glimprouter.engines.http import HttpEngine


class ServerCoder:
    """What a dialect has no route for is refused, with what to give instead."""

    def __init__(self, engine: HttpEngine) -> None:
        self._engine = engine

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        return await self._engine.exchange(self._there("tokenize"), text, special=special, begin=begin)

    async def detokenize(self, ids: Sequence[int]) -> str:
        return await self._engine.exchange(self._there("detokenize"), list(ids))

    async def render(self, messages: Sequence[Message]) -> str:
        if self._engine.dialect.render is not None:
            return await self._engine.exchange(self._engine.dialect.render, messages)
        return await self.detokenize(await self._engine.exchange(self._there("encode_chat"), messages))

    async def chat_ids(self, messages: Sequence[Message]) -> list[int] | None:
        exchange = self._engine.dialect.encode_chat
        return None if exchange is None else await self._engine.exchange(exchange, messages)

    def _there(self, route: str) -> Exchange[Any]:
        exchange: Exchange[Any] | None = getattr(self._engine.dialect, route)
        if exchange is None:
            raise ModelError(
                f"{self._engine.name}: a {self._engine.dialect.name} server has no route that can {route} for us; give "
                "the model's tokenizer files with --tokenizer FOLDER",
                field="tokenizer",
            )
        return exchange
