"""How far a run has come, at what rate, and how long it will take: a bar where somebody looks, else a line at times."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from glimprouter.evaluate.job import Answered, PhaseStarted
from glimprouter.evaluate.job import Progress as Event

LINE_EVERY_S = 30.0


async def follow(events: AsyncIterator[Event], console: Console) -> None:
    """Take a run's events to their end, showing them."""
    if not console.is_terminal:
        await _follow_in_lines(events, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        phase = None
        async for event in events:
            match event:
                case PhaseStarted(name, total, done):
                    phase = progress.add_task(name, total=total, completed=done)
                case Answered():
                    assert phase is not None
                    progress.advance(phase)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


async def _follow_in_lines(events: AsyncIterator[Event], console: Console) -> None:
    lines = Lines()
    async for event in events:
        if line := lines.line(event):
            console.print(line, soft_wrap=True)


class Lines:
    """Says a line now and then; what was done before this start counts as done, not as speed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name, self._total, self._before, self._done = "", 0, 0, 0
        self._begun_s = self._said_s = clock()

    def line(self, event: Event) -> str | None:
        """What to say of an event, if it is time to."""
        now = self._clock()
        match event:
            case PhaseStarted(name, total, done):
                self._name, self._total, self._before = name, total, done
                self._done, self._begun_s, self._said_s = self._before, now, now
                return None
            case Answered():
                self._done += 1
        if now - self._said_s < LINE_EVERY_S:
            return None
        self._said_s = now
        rate = (self._done - self._before) / (now - self._begun_s)
        left_minutes = (self._total - self._done) / rate / 60
        return f"{self._name}: {self._done} of {self._total}, {rate:.1f}/s, {left_minutes:.0f} min left"
