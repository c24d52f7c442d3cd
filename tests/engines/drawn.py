"""What came of a call, for tests to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glimprouter.config import Sampling
from glimprouter.flow.engine import Engine, Finish, Token, Usage

GREEDY = Sampling(temperature=0.0)
FREE = Sampling(temperature=1.0, top_p=1.0)
"""The distribution as it is."""


@dataclass
class Drawn:
    tokens: list[Token]
    finish: Finish | None
    usage: Usage

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


async def draw(
    engine: Engine, ids: Sequence[int], sampling: Sampling = GREEDY, *, max_tokens: int = 64, top: int = 0
) -> Drawn:
    """Read a stream to its end; the end itself is no token."""
    usage = Usage()
    tokens: list[Token] = []
    async with engine.generate(ids, sampling, max_tokens=max_tokens, top=top, usage=usage) as stream:
        tokens += [token async for token in stream]
    assert [token.finish for token in tokens[:-1]] == [None] * (len(tokens) - 1)
    return Drawn([token for token in tokens if token.id >= 0], tokens[-1].finish, usage)


async def first(engine: Engine, ids: Sequence[int], usage: Usage | None = None) -> Token:
    """The first token of a stream that is then left."""
    async with engine.generate(ids, GREEDY, max_tokens=400, top=0, usage=usage or Usage()) as stream:
        return await anext(stream)
