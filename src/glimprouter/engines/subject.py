"""One engine under examination: what is drawn from it, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glimprouter.config import Sampling, Side
from glimprouter.errors import ContextError, PairError
from glimprouter.flow.engine import Engine, EngineFacts, Message, Token, Usage
from glimprouter.flow.prompt import Prompter

GREEDY = Sampling(temperature=0.0, top_p=1.0)


@dataclass(slots=True)
class Drawn:
    """The tokens of one call, the end left out. `arrived_ms` counts from the call, one for each token."""

    tokens: list[Token] = field(default_factory=list)
    arrived_ms: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    ended_ms: float = 0.0

    @property
    def first_token_ms(self) -> float:
        """Until the first token, or the end where there was none."""
        return self.arrived_ms[0] if self.arrived_ms else self.ended_ms


class Subject:
    """An engine on one side of a pair. `top`: how many log-probabilities the router asks of it with every token.

    `glimpses`: the router decides by them. `clock` is in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        side: Side,
        *,
        top: int,
        glimpses: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.side: Side = side
        self.top = top
        self.glimpses = glimpses and top > 0
        self.clock = clock
        self._prompter = Prompter(engine, engine)
        self._prompts: dict[str, list[int]] = {}

    async def facts(self) -> EngineFacts:
        return await self.engine.facts()

    async def open_thought(self) -> str:
        """The name of the thought format. Raises PairError where the template cannot hold an open thought."""
        prompt = await self._prompter.open_side(self.side, _chat("What is 17 + 25?"))
        return prompt.format.name

    async def prompt_unopened(self) -> list[int]:
        """A question as the model's template renders it: less to ask the engine than `prompt`."""
        return await self.engine.encode_prompt(_chat("What is 17 + 25?"))

    async def prompt(self, question: str = "What is 17 + 25?") -> list[int]:
        """A question as the router would send it; with its thought unopened where it cannot be opened."""
        if question not in self._prompts:
            try:
                ids = list((await self._prompter.open_side(self.side, _chat(question))).ids)
            except (PairError, ContextError):
                ids = await self.engine.encode_prompt(_chat(question))
            self._prompts[question] = ids
        return self._prompts[question]

    async def draw(
        self, ids: Sequence[int], *, max_tokens: int = 1, top: int | None = None, sampling: Sampling = GREEDY
    ) -> Drawn:
        """One call, read to its end."""
        drawn = Drawn()
        top = self.top if top is None else top
        begun = self.clock()
        async with self.engine.generate(ids, sampling, max_tokens=max_tokens, top=top, usage=drawn.usage) as tokens:
            async for token in tokens:
                if token.id >= 0:
                    drawn.tokens.append(token)
                    drawn.arrived_ms.append((self.clock() - begun) * 1000)
        drawn.ended_ms = (self.clock() - begun) * 1000
        return drawn


def _chat(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]
