"""An event loop whose clock stands still while anything can run and then jumps to the next timer.

Paced runs take no time on it.
`asyncio.sleep`, time-outs and `loop.time()` all follow it. Nothing real may be waited for: no sockets, no threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due = [timer.when() for timer in timers if not timer.cancelled()]
        if due and not self._ready:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, min(due))
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a clock that starts at zero."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
