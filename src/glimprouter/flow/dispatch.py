"""Carries out what a policy wants on the two writers, and keeps the trace while doing so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing

from glimprouter.config import SIDES, Side
from glimprouter.flow.answer import Event, HoldBack, StepFinished, StepStarted, Text
from glimprouter.flow.answering import write_answer
from glimprouter.flow.deciding import Decision, Judges
from glimprouter.flow.drawing import Drawing, Room
from glimprouter.flow.moves import Keep, StepPolicy, Verdict, Write
from glimprouter.flow.request import Request
from glimprouter.flow.splitters import make_splitter
from glimprouter.flow.steps import LoopWatch
from glimprouter.flow.telling import Telling
from glimprouter.flow.timing import Timing
from glimprouter.flow.trace import DraftRecord, Step, StepEnd, ThoughtEnd, Trace
from glimprouter.flow.until import Limit
from glimprouter.flow.writer import Writer, WriterPair

_THOUGHT_ENDS: dict[StepEnd, ThoughtEnd] = {
    "closed": "closed",
    "end_token": "end_token",
    "budget": "thinking_budget",
    "context": "context",
}

ANSWER_RESERVE_TOKENS = 16
"""Of each context, kept free for closing the thought and the beginning of an answer."""


class Dispatch:
    """One answer under way. `thinking` is true until the thought has ended, for whatever reason."""

    def __init__(
        self,
        request: Request,
        pair: WriterPair,
        trace: Trace,
        judges: Judges,
        *,
        authors: Collection[Side],
        begun: float,
        clock: Callable[[], float],
    ) -> None:
        """`authors` are the models that the policy may let write; `begun` is when the request came, by `clock` (s)."""
        self._request = request
        self._pair = pair
        self._trace = trace
        self._judges = judges
        self._timing = Timing(clock, begun, trace)
        self._room_tokens = min(pair[side].prompt.room_tokens for side in SIDES) - ANSWER_RESERVE_TOKENS
        routing = request.routing
        self._warmed = frozenset((*authors, routing.answer_by) if routing.warm else ())
        self._tokens = self._rounds = 0
        self._step_text = ""
        self._loops = LoopWatch(routing.loop_repeats)
        self._splitter = make_splitter(routing, close_tag=pair["small"].prompt.format.close_tag)
        trace.splitter = self._splitter.describe()
        self._decision = self._new_decision()
        self.thinking = True
        if len(self._warmed) == len(SIDES):
            # The small model glimpses first; the large one reads the question meanwhile.
            pair["large"].warm()

    async def decide(self, policy: StepPolicy) -> Verdict:
        """Run the policy's plan for the next step: carry out its moves, return its verdict."""
        self._decision = self._new_decision()
        return await self._decision.run(policy)

    def _new_decision(self) -> Decision:
        return Decision(
            self._request,
            self._pair,
            self._trace,
            self._judges,
            self._timing,
            splitter=self._splitter,
            room=self._room,
            warmed=self._warmed,
        )

    @property
    def _room(self) -> Room:
        budget_tokens = self._request.routing.max_thinking_tokens
        return Room(budget_tokens - self._tokens, self._room_tokens - self._tokens)

    async def carry_out(self, verdict: Verdict) -> AsyncGenerator[Event, None]:
        """Have the next step written, or a draft of it kept, telling of it as it comes; the other model hears of it."""
        events = self._keep(verdict) if isinstance(verdict, Keep) else self._write(verdict)
        async with aclosing(events) as step:
            async for event in step:
                yield event

    async def _write(self, verdict: Write) -> AsyncGenerator[Event, None]:
        """Stream the step while it is drawn."""
        writer, idle = self._pair[verdict.who], self._pair.other(verdict.who)
        await self._decision.drafts.drop()
        step = Step(index=len(self._trace.steps), author=verdict.who)
        step.handover = self._decision.opened or not writer.is_open
        opens = not self._trace.steps or not self._trace.steps[-1].ends_within
        self._begin(step, self._decision.drafts.records(None))
        # Only now: until the verdict the other's stream ran on, so that there is no gap where it stays the writer.
        await self._leave_idle(idle)
        yield StepStarted(step)
        drawing = Drawing(step, writer, self._splitter, self._room, Limit(verdict.until, opens=opens), self._timing)
        guard = HoldBack(writer.prompt.format.close_tag)
        telling = Telling(step, every_tokens=self._warm_every_tokens(idle, writer))
        end: StepEnd | None = None
        while end is None:
            token, end = await drawing.draw(step.index)
            if shown := guard.feed(token.text):
                self._timing.text_shown()
                yield Text(verdict.who, "thought", shown)
            if end is None and telling.is_due and token.text and not guard.holds:
                idle.hear(telling.told(writer.facts.vocabulary))
                idle.warm()
        if rest := guard.flush():
            yield Text(verdict.who, "thought", rest)
        self._finish(step, end)
        idle.hear(telling.rest(writer, tag_alone=not self._splitter.after_close))
        yield StepFinished(step)

    async def _keep(self, verdict: Keep) -> AsyncGenerator[Event, None]:
        """Show a draft, whole; its writer goes on from its last token."""
        drafts = self._decision.drafts
        drawing = await drafts.keep(verdict.draft)
        step, writer = drawing.step, drawing.writer
        idle, end = self._pair.other(writer.side), step.end
        passage = drafts.passage_of(verdict.draft)
        step.handover = self._decision.opened
        self._begin(step, drafts.records(verdict.draft))
        await self._leave_idle(idle)
        self._splitter = drawing.splitter
        yield StepStarted(step)
        guard = HoldBack(writer.prompt.format.close_tag)
        if shown := guard.feed(step.text) + guard.flush():
            self._timing.text_shown()
            yield Text(writer.side, "thought", shown)
        self._finish(step, end)
        idle.hear(passage)
        yield StepFinished(step)

    def _begin(self, step: Step, drafts: list[DraftRecord]) -> None:
        """The verdict has fallen: the step stands in the trace from now on."""
        step.glimpse = self._decision.glimpse
        step.drafts, step.judgements = drafts, self._decision.judgements
        step.decide_ms = self._timing.since_step_ms()
        self._trace.steps.append(step)

    async def _leave_idle(self, idle: Writer) -> None:
        await idle.stop()
        if idle.side in self._warmed:
            idle.warm()

    def _warm_every_tokens(self, idle: Writer, writer: Writer) -> int:
        """How often within a step the idle model reads along; 0: not at all, for text is encoded whole, at its end."""
        if idle.side not in self._warmed or not idle.shares_ids_with(writer):
            return 0
        return self._request.routing.warm_every_tokens

    def _finish(self, step: Step, end: StepEnd) -> None:
        step.end = end
        step.wall_ms = self._timing.step_ended()
        self._tokens += len(step.ids)
        if end in _THOUGHT_ENDS:
            self._end_thought(_THOUGHT_ENDS[end])
            return
        self._step_text += step.text
        if step.ends_within:
            return
        step.loop_cycle_steps = self._loops.step(self._step_text)
        self._step_text = ""
        self._rounds = self._rounds + 1 if step.loop_cycle_steps else 0
        if self._rounds > self._request.routing.loop_repeats:
            self._end_thought("loop")

    def _end_thought(self, how: ThoughtEnd) -> None:
        self._trace.thought_end = how
        self._trace.thought_ms = self._timing.since_begun_ms()
        self.thinking = False

    async def answer(self) -> AsyncGenerator[Event, None]:
        """Have the answer written by whom the request says."""
        events = write_answer(
            self._request, self._pair, self._trace, self._timing, after_close=self._splitter.after_close or ""
        )
        async with aclosing(events) as answer:
            async for event in answer:
                yield event
