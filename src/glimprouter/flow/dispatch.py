"""Carries out what a policy wants on the two writers, and keeps the trace while doing so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import replace

from glimprouter.config import SIDES, Side
from glimprouter.flow.answer import Event, HoldBack, StepFinished, StepStarted, Text
from glimprouter.flow.engine import Token
from glimprouter.flow.glimpse import Glimpse, glimpse_of
from glimprouter.flow.moves import StepPolicy
from glimprouter.flow.request import Request
from glimprouter.flow.steps import LoopWatch, Mark, Splitter
from glimprouter.flow.trace import AnswerEnd, AnswerText, Step, StepEnd, ThoughtEnd, Trace
from glimprouter.flow.writer import Passage, Writer, WriterPair

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
        *,
        authors: Collection[Side],
        begun: float,
        clock: Callable[[], float],
    ) -> None:
        """`authors` are the models that the policy may let write; `begun` is when the request came, by `clock` (s)."""
        self._request = request
        self._pair = pair
        self._trace = trace
        self._clock = clock
        self._begun = self._step_begun = begun
        self._room_tokens = min(pair[side].prompt.room_tokens for side in SIDES) - ANSWER_RESERVE_TOKENS
        self._glimpses: dict[Side, Glimpse] = {}
        self._opened = False
        self._rounds = 0
        self._warmed = {*authors, request.routing.answer_by} if request.routing.warm else set[Side]()
        routing = request.routing
        self._tokens = 0
        self._loops = LoopWatch(routing.loop_repeats)
        self._splitter = Splitter(
            close_tag=pair["small"].prompt.format.close_tag,
            min_step_tokens=routing.min_step_tokens,
            max_step_tokens=routing.max_step_tokens,
        )
        self.thinking = True
        if len(self._warmed) == len(SIDES):
            # The small model glimpses first; the large one reads the question meanwhile.
            pair["large"].warm()

    async def decide(self, policy: StepPolicy) -> Side:
        """Run the policy's plan for the next step: carry out its moves, return its verdict."""
        self._glimpses, self._opened = {}, False
        plan = policy.plan(self._trace)
        try:
            move = next(plan)
            while True:
                writer = self._pair[move.who]
                if not self._request.routing.overlap:
                    await self._pair.other(move.who).stop()
                self._opened |= not writer.is_open
                glimpse = await writer.look(len(self._trace.steps), move.tokens)
                self._glimpses[move.who] = glimpse
                move = plan.send(glimpse)
        except StopIteration as verdict:
            return verdict.value.who  # type: ignore[no-any-return]
        finally:
            plan.close()

    async def write(self, who: Side) -> AsyncGenerator[Event, None]:
        """Let `who` write the next step to its end, streaming it; the other hears of it."""
        writer = self._pair[who]
        step = Step(index=len(self._trace.steps), author=who, glimpse=self._glimpses.get("small"))
        step.handover = self._opened or not writer.is_open
        self._trace.steps.append(step)
        # Only now: until the verdict the other's stream ran on, so that there is no gap where it stays the writer.
        idle = self._pair.other(who)
        await idle.stop()
        if idle.side in self._warmed:
            idle.warm()
        yield StepStarted(step)
        guard = HoldBack(writer.prompt.format.close_tag)
        telling = Telling(step, every_tokens=self._warm_every_tokens(idle, writer))
        end: StepEnd | None = None
        while end is None:
            token = await writer.take(step.index)
            mark = self._append(step, writer, token)
            if shown := guard.feed(token.text):
                self._note_first_text()
                yield Text(who, "thought", shown)
            end = self._end_of(token, mark)
            if end is None and telling.is_due and token.text and not guard.holds:
                idle.hear(telling.told(writer.facts.vocabulary))
                idle.warm()
        if rest := guard.flush():
            yield Text(who, "thought", rest)
        self._finish(step, end)
        idle.hear(telling.rest(writer, tag_alone=not self._splitter.after_close))
        yield StepFinished(step)

    def _warm_every_tokens(self, idle: Writer, writer: Writer) -> int:
        """How often within a step the idle model reads along; 0: not at all, for text is encoded whole, at its end."""
        if idle.side not in self._warmed or not idle.shares_ids_with(writer):
            return 0
        return self._request.routing.warm_every_tokens

    def _append(self, step: Step, writer: Writer, token: Token) -> Mark:
        if not step.ids:
            step.wait_ms = (self._clock() - self._step_begun) * 1000
        if token.id < 0:
            return Mark.OPEN
        if step.glimpse is None and writer.side == "small" and token.top and not token.text.isspace():
            step.glimpse = glimpse_of(token, writer.facts.vocabulary_size)
        step.ids.append(token.id)
        step.text += token.text
        self._tokens += 1
        return self._splitter.token(token.text)

    def _end_of(self, token: Token, mark: Mark) -> StepEnd | None:
        if mark is Mark.CLOSED:
            return "closed"
        if token.finish == "stop":
            return "end_token"
        if self._tokens >= self._request.routing.max_thinking_tokens:
            return "budget"
        if token.finish == "length" or self._tokens >= self._room_tokens:
            return "context"
        if mark is Mark.BOUNDARY:
            return "boundary"
        return "forced" if mark is Mark.FORCED else None

    def _finish(self, step: Step, end: StepEnd) -> None:
        now = self._clock()
        step.end = end
        step.wall_ms = (now - self._step_begun) * 1000
        self._step_begun = now
        if end in _THOUGHT_ENDS:
            self._end_thought(_THOUGHT_ENDS[end])
            return
        step.loop_cycle_steps = self._loops.step(step.text)
        self._rounds = self._rounds + 1 if step.loop_cycle_steps else 0
        if self._rounds > self._request.routing.loop_repeats:
            self._end_thought("loop")

    def _end_thought(self, how: ThoughtEnd) -> None:
        self._trace.thought_end = how
        self._trace.thought_ms = (self._clock() - self._begun) * 1000
        self.thinking = False

    def _note_first_text(self) -> None:
        if not self._trace.first_token_ms:
            self._trace.first_token_ms = (self._clock() - self._begun) * 1000

    async def answer(self) -> AsyncGenerator[Event, None]:
        """Have the answer written. Whoever did not close the thought itself is given the close in its own tags."""
        who = self._request.routing.answer_by
        writer = self._pair[who]
        trace = self._trace
        closed_by = trace.steps[-1].author if trace.thought_end == "closed" and trace.steps else None
        if closed_by is None:
            lead = "" if trace.steps and trace.steps[-1].text.endswith("\n") else "\n"
            trace.router_close = lead + writer.prompt.format.close_tag
            await writer.close_thought(lead)
        elif closed_by != who:
            await writer.close_thought("")
        trace.answer = AnswerText(author=who)
        writer.allow(self._request.routing.max_answer_tokens)
        begun = self._clock()
        shown = False
        async with aclosing(self._answer_text(writer, trace.answer, closed_here=closed_by == who)) as texts:
            async for text in texts:
                visible = text if shown else text.lstrip()
                if visible:
                    shown = True
                    self._note_first_text()
                    yield Text(who, "answer", visible)
        trace.answer_ms = (self._clock() - begun) * 1000

    async def _answer_text(self, writer: Writer, answer: AnswerText, *, closed_here: bool) -> AsyncGenerator[str, None]:
        """The answer's text as it may be shown: up to a stop string, the budget or the model's own end."""
        guard = HoldBack(*self._request.stop)
        fresh = guard.feed(self._splitter.after_close or "") if closed_here else ""
        end: AnswerEnd | None = "stop_string" if guard.hit else None
        while True:
            if end in ("stop", "length"):
                fresh += guard.flush()
            answer.text += fresh
            yield fresh
            if end is not None:
                answer.end = end
                return
            token = await writer.take(len(self._trace.steps))
            if token.id >= 0:
                answer.ids.append(token.id)
            fresh = guard.feed(token.text)
            if guard.hit:
                end = "stop_string"
            elif token.finish or len(answer.ids) >= self._request.routing.max_answer_tokens:
                end = token.finish or "length"


class Telling:
    """How much of a step under way the idle model has been told."""

    def __init__(self, step: Step, *, every_tokens: int) -> None:
        """`every_tokens` 0: only the whole."""
        self._step = step
        self._every_tokens = every_tokens
        self._tokens = self._characters = 0

    @property
    def is_due(self) -> bool:
        return bool(self._every_tokens) and len(self._step.ids) - self._tokens >= self._every_tokens

    def told(self, vocabulary: str) -> Passage:
        """What is new in the step since this was last asked."""
        text, ids = self._step.text[self._characters :], tuple(self._step.ids[self._tokens :])
        self._characters, self._tokens = len(self._step.text), len(self._step.ids)
        return Passage(text, ids, vocabulary)

    def rest(self, writer: Writer, *, tag_alone: bool) -> Passage:
        """The end of the step, without the closing tag, which every family encodes its own way.

        `tag_alone`: the tag is tokens of its own, not part of one that says more.
        """
        passage = self.told(writer.facts.vocabulary)
        if self._step.end != "closed":
            return passage
        body = passage.text.rpartition(writer.prompt.format.close_tag)[0]
        close_ids, ids = writer.prompt.close_ids, passage.ids or ()
        alone = tag_alone and ids[-len(close_ids) :] == close_ids
        return replace(passage, text=body, ids=ids[: -len(close_ids)] if alone else None)
