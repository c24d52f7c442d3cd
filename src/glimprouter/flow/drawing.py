"""A step, or a piece of one, as it is drawn: its tokens go in, and how it ends comes out."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from glimprouter.flow.engine import Token
from glimprouter.flow.glimpse import glimpse_of
from glimprouter.flow.steps import Mark, Splitter
from glimprouter.flow.timing import Timing
from glimprouter.flow.trace import Step, StepEnd
from glimprouter.flow.until import Limit
from glimprouter.flow.writer import Writer


@dataclass(frozen=True, slots=True)
class Room:
    """How many tokens a thought may still have: by its budget, and by the contexts."""

    budget_tokens: int
    context_tokens: int


class Drawing:
    """Fills `step` with its writer's tokens; `splitter` reads along. Tokens taken are kept for a draft's measures."""

    def __init__(
        self, step: Step, writer: Writer, splitter: Splitter, room: Room, limit: Limit, timing: Timing
    ) -> None:
        self.step = step
        self.writer = writer
        self.splitter = splitter
        self.tokens: list[Token] = []
        self._room = room
        self._limit = limit
        self.timing = timing

    async def draw(self, step_index: int) -> tuple[Token, StepEnd | None]:
        """One token more, and how the step ends with it, if it does."""
        token = await self.writer.take(step_index)
        mark = self._append(token)
        if mark is Mark.PENDING and token.finish is None and len(self.step.ids) < min(astuple(self._room)):
            mark = await self._settle(step_index)
        return token, self._end_of(token, mark)

    async def _settle(self, step_index: int) -> Mark:
        """Whether the step ends here: look at tokens to come, taking none, until the splitter can tell."""
        text, place, mark = "", 0, Mark.PENDING
        while mark is Mark.PENDING:
            token = await self.writer.peek(place, step_index)
            text, place = text + token.text, place + 1
            mark = self.splitter.ahead(text, last=token.finish is not None)
        return mark

    def _append(self, token: Token) -> Mark:
        step = self.step
        if not step.ids:
            step.wait_ms = self.timing.since_step_ms()
        if token.id < 0:
            return Mark.OPEN
        if step.glimpse is None and self.writer.side == "small" and token.top and not token.text.isspace():
            step.glimpse = glimpse_of(token, self.writer.facts.vocabulary_size)
        step.ids.append(token.id)
        step.text += token.text
        self.tokens.append(token)
        return self.splitter.token(token.text)

    def _end_of(self, token: Token, mark: Mark) -> StepEnd | None:
        if mark is Mark.CLOSED:
            return "closed"
        if token.finish == "stop":
            return "end_token"
        if len(self.step.ids) >= self._room.budget_tokens:
            return "budget"
        if token.finish == "length" or len(self.step.ids) >= self._room.context_tokens:
            return "context"
        if mark is Mark.BOUNDARY:
            return "boundary"
        return "forced" if mark is Mark.FORCED else self._limit.token(token.text)
