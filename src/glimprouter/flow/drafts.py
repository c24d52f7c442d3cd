"""The drafts of one step: drawn, judged, and at the verdict kept or thrown away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.config import Side
from glimprouter.flow.drafted import Drafted, mean_entropy_nats, perplexity
from glimprouter.flow.drawing import Drawing
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.telling import Telling
from glimprouter.flow.trace import DraftRecord, Step
from glimprouter.flow.writer import Passage, Place, Writer, WriterPair


@dataclass(frozen=True, slots=True)
class _Sheet:
    drafted: Drafted
    drawing: Drawing
    wall_ms: float


class Drafts:
    """All drafts of a step begin at the same place. A model's last one stands in its writer's text, its stream open, so
    that keeping it costs nothing; earlier ones are kept as ids."""

    def __init__(self, pair: WriterPair) -> None:
        self._pair = pair
        self._sheets: list[_Sheet] = []
        self._places: dict[Side, Place] = {}
        self._standing: dict[Side, int] = {}

    @property
    def glimpse(self) -> Glimpse | None:
        """What the small model's first draft began with."""
        return next((s.drawing.step.glimpse for s in self._sheets if s.drafted.author == "small"), None)

    def place_of(self, side: Side) -> Place | None:
        """Where a model stood before it drafted; None where it did not."""
        return self._places.get(side)

    async def draw(self, drawing_on: Callable[[Step, Writer], Drawing], step: Step) -> Drafted:
        """A step written on trial by its author; nothing of it is shown."""
        who, number = step.author, len(self._sheets)
        writer = self._pair[who]
        if who in self._standing:
            await writer.go_back(self._places[who])
        else:
            self._places[who] = await writer.here()
        writer.attempt = sum(sheet.drafted.author == who for sheet in self._sheets)
        self._standing[who] = number
        drawing = drawing_on(step, writer)
        begun_ms = drawing.timing.since_step_ms()
        end = None
        while end is None:
            _, end = await drawing.draw(step.index)
        step.end = end
        drafted = Drafted(number, who, step.text, end, mean_entropy_nats(drawing.tokens), perplexity(drawing.tokens))
        self._sheets.append(_Sheet(drafted, drawing, drawing.timing.since_step_ms() - begun_ms))
        return drafted

    def passage_of(self, draft: Drafted) -> Passage:
        """A draft as another model reads it."""
        drawing = self._sheet_of(draft).drawing
        return Telling(drawing.step, every_tokens=0).rest(drawing.writer, tag_alone=not drawing.splitter.after_close)

    def _sheet_of(self, draft: Drafted) -> _Sheet:
        """Raises ValueError for a draft of another step, which a policy must not hold on to."""
        if draft.number >= len(self._sheets) or self._sheets[draft.number].drafted is not draft:
            raise ValueError("the policy names a draft of another step; draft anew in each plan")
        return self._sheets[draft.number]

    async def keep(self, draft: Drafted) -> Drawing:
        """The draft is the step: its writer's text ends in exactly its ids, all others are thrown away."""
        kept = self._sheet_of(draft).drawing
        stands = self._standing.pop(draft.author) == draft.number
        if not stands:
            await kept.writer.go_back(self._places[draft.author])
            kept.writer.retake(kept.step.ids)
        kept.writer.attempt = 0
        await self.drop()
        return kept

    async def drop(self) -> None:
        """Throw away what stands in the writers' texts."""
        for side in list(self._standing):
            await self._pair[side].go_back(self._places[side])
        self._forget_standing()

    def fail(self) -> None:
        """The answer breaks off: what was drafted counts as discarded. The streams are closed with the writers."""
        for side in self._standing:
            self._pair[side].forget(self._places[side])
        self._forget_standing()

    def _forget_standing(self) -> None:
        for side in self._standing:
            self._pair[side].attempt = 0
        self._standing.clear()

    def records(self, kept: Drafted | None) -> list[DraftRecord]:
        """For the trace."""
        return [self._record(sheet, sheet.drafted is kept) for sheet in self._sheets]

    @staticmethod
    def _record(sheet: _Sheet, kept: bool) -> DraftRecord:
        drafted, step = sheet.drafted, sheet.drawing.step
        return DraftRecord(
            author=drafted.author,
            kept=kept,
            tokens=len(step.ids),
            text="" if kept else step.text,
            ids=[] if kept else list(step.ids),
            end=drafted.end,
            mean_entropy_nats=drafted.mean_entropy_nats,
            perplexity=drafted.perplexity,
            wall_ms=sheet.wall_ms,
        )
