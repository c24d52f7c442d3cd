"""The answer that follows a thought: written by one model, cut at stop strings, shown as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from glimprouter.flow.answer import Event, HoldBack, Text
from glimprouter.flow.request import Request
from glimprouter.flow.timing import Timing
from glimprouter.flow.trace import AnswerEnd, AnswerText, Trace
from glimprouter.flow.writer import Writer, WriterPair


async def write_answer(
    request: Request, pair: WriterPair, trace: Trace, timing: Timing, *, after_close: str
) -> AsyncGenerator[Event, None]:
    """Have the answer written. Whoever did not close the thought itself is given the close in its own tags.

    `after_close` is what followed the closing tag inside the same token.
    """
    who = request.routing.answer_by
    writer = pair[who]
    closed_by = trace.steps[-1].author if trace.thought_end == "closed" and trace.steps else None
    if closed_by is None:
        lead = "" if trace.steps and trace.steps[-1].text.endswith("\n") else "\n"
        trace.router_close = lead + writer.prompt.format.close_tag
        await writer.close_thought(lead)
    elif closed_by != who:
        await writer.close_thought("")
    trace.answer = AnswerText(author=who)
    writer.allow(request.routing.max_answer_tokens)
    begun_ms = timing.since_begun_ms()
    shown = False
    begins_with = after_close if closed_by == who else ""
    async with aclosing(_texts(request, writer, trace, begins_with)) as texts:
        async for text in texts:
            visible = text if shown else text.lstrip()
            if visible:
                shown = True
                timing.text_shown()
                yield Text(who, "answer", visible)
    trace.answer_ms = timing.since_begun_ms() - begun_ms


async def _texts(request: Request, writer: Writer, trace: Trace, begins_with: str) -> AsyncGenerator[str, None]:
    """The answer's text as it may be shown: up to a stop string, the budget or the model's own end."""
    answer = trace.answer
    assert answer is not None
    guard = HoldBack(*request.stop)
    fresh = guard.feed(begins_with)
    end: AnswerEnd | None = "stop_string" if guard.hit else None
    while True:
        if end in ("stop", "length"):
            fresh += guard.flush()
        answer.text += fresh
        yield fresh
        if end is not None:
            answer.end = end
            return
        token = await writer.take(len(trace.steps))
        if token.id >= 0:
            answer.ids.append(token.id)
        fresh = guard.feed(token.text)
        if guard.hit:
            end = "stop_string"
        elif token.finish or len(answer.ids) >= request.routing.max_answer_tokens:
            end = token.finish or "length"
