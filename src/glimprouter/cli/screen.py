"""Draws an answer in the terminal while it is written: one colour per author, the entropy of every step beside it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text as Styled

from glimprouter.flow.answer import Event, Finished, Started, StepFinished, StepStarted, Text
from glimprouter.flow.trace import Step, Trace
from glimprouter.pair import Pair

COLOURS = {"small": "cyan", "large": "yellow"}
MARKS = {"small": "s", "large": "L"}
BAR_CELLS = 6
BAR_FULL_NATS = 3.0
GUTTER = 6 + BAR_CELLS + 4


def entropy_bar(entropy_nats: float | None) -> str:
    """`0.42 ▇▁····`-like: the number in nats and a bar that is full at three."""
    if entropy_nats is None:
        return " " * (6 + BAR_CELLS)
    filled = min(BAR_CELLS, round(entropy_nats / BAR_FULL_NATS * BAR_CELLS))
    return f"{entropy_nats:5.2f} " + "█" * filled + "·" * (BAR_CELLS - filled)


def warn(pair: Pair) -> None:
    """Say on standard error, once, what a look at the pair gave to be warned of."""
    console = Console(stderr=True, highlight=False)
    for finding in pair.findings:
        console.print(Styled(f"--{finding.side} {finding.sentence}", style="dim"), soft_wrap=True)


class Screen:
    """Takes a router's events and writes lines. Text streams; a step's gutter comes with its first text."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._style = ""
        self._newlines = 0
        self._begun = False
        self._pending: Step | None = None
        self._in_answer = False

    def show(self, event: Event) -> None:
        match event:
            case Started(trace):
                self._head(trace)
            case StepStarted(step):
                self._pending = step
            case Text(author, "thought", text):
                self._style = COLOURS[author]
                self._write(text)
            case Text(author, "answer", text):
                self._begin_answer(author)
                self._write(text)
            case StepFinished():
                self._end_line()
            case Finished(trace):
                self.finish(trace)

    def finish(self, trace: Trace) -> None:
        """The line of facts, also for an answer that broke off."""
        self._end_line()
        self._console.print()
        # A picture has no window that could wrap the line for it.
        self._console.print(Styled(facts_line(trace), style="dim"), soft_wrap=not self._console.record)
        if trace.error:
            self._console.print(Styled(f"stopped: {trace.error}", style="bold red"), soft_wrap=True)

    def _head(self, trace: Trace) -> None:
        line = Styled()
        for side in ("small", "large"):
            line.append(f"{MARKS[side]} {side}: {trace.usage_of(side).model}   ", style=COLOURS[side])
        line.append(trace.policy, style="dim")
        self._console.print(line, soft_wrap=True)
        self._console.print(Styled("H_init (nats)", style="dim"))

    def _begin_answer(self, author: str) -> None:
        if not self._in_answer:
            self._end_line()
            self._console.print()
            self._in_answer, self._pending = True, None
        self._style = f"bold {COLOURS[author]}"

    def _write(self, text: str) -> None:
        """Newlines wait for the text behind them, so that the blank line that ends a step is not drawn."""
        for number, line in enumerate(text.split("\n")):
            self._newlines += number > 0
            if not line:
                continue
            if not self._begun:
                self._console.print(self._gutter(), end="")
            elif self._newlines:
                self._console.print("\n" * min(2, self._newlines) + " " * GUTTER, end="")
            self._begun, self._newlines = True, 0
            self._console.print(Styled(line, style=self._style), end="", soft_wrap=True, highlight=False)

    def _gutter(self) -> Styled:
        step, self._pending = self._pending, None
        if step is None:
            return Styled(" " * (GUTTER - 8) + "answer  ", style="dim")
        glimpse = step.glimpse
        line = Styled(entropy_bar(glimpse.entropy_nats if glimpse else None), style="dim")
        line.append(f" {MARKS[step.author]}  ", style=f"bold {COLOURS[step.author]}")
        return line

    def _end_line(self) -> None:
        if self._begun:
            self._console.print()
        self._begun, self._newlines = False, 0


def facts_line(trace: Trace) -> str:
    """Steps, shares, tokens, times: the one line under an answer."""
    large_steps = sum(step.author == "large" for step in trace.steps)
    models = " · ".join(
        f"{side} {usage.new_tokens} tokens in {usage.calls} calls ({usage.discarded_tokens} discarded)"
        for side in ("small", "large")
        for usage in [trace.usage_of(side)]
    )
    ended = "" if trace.thought_end == "closed" else f" · thought ended: {trace.thought_end}"
    return (
        f"{len(trace.steps)} steps, {large_steps} by large ({trace.large_step_share:.0%} of steps, "
        f"{trace.large_token_share:.0%} of thought tokens) · {models} · {trace.wall_ms / 1000:.2f} s, "
        f"{trace.handover_ms / 1000:.2f} s of it in {trace.handovers} hand-overs{ended}"
    )
