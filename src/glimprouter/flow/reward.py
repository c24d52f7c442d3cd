"""What the loop needs of a reward model: a value from 0 to 1 for the last step of a thought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from glimprouter.flow.engine import Message, Usage


class RewardEngine(Protocol):
    """A process reward model. Safe for concurrent calls; raises EngineError."""

    name: str

    async def reward(self, messages: Sequence[Message], steps: Sequence[str], *, usage: Usage) -> float:
        """From 0 to 1: how good the last of `steps` is, which together answer `messages`."""
        ...

    async def close(self) -> None: ...
