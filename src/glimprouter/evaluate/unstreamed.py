"""The large model as people use it without this program: the whole thought and answer in one blocking request."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeGuard

from glimprouter.config import Sampling
from glimprouter.flow.engine import Engine, Finish, Usage
from glimprouter.flow.prompt import Prompt, Prompter
from glimprouter.flow.request import Request
from glimprouter.flow.trace import AnswerText, ModelUsage, Step, Trace
from glimprouter.flow.writer import derived_seed


class Completion(Protocol):
    """What a blocking request gives: everything drawn, and why it ended."""

    @property
    def text(self) -> str: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def finish(self) -> Finish: ...


class CompletingEngine(Engine, Protocol):
    """An engine that can also be asked without streaming. The reply comes whole, as its server sent it."""

    async def complete(
        self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage
    ) -> Completion: ...


def can_complete(engine: Engine) -> TypeGuard[CompletingEngine]:
    return callable(getattr(engine, "complete", None))


class Unstreamed:
    """Asks the large engine directly. It draws from the same seed as `large`, so that both write the same answer."""

    def __init__(self, small: Engine, large: CompletingEngine) -> None:
        self._large = large
        self._prompter = Prompter(small, large)

    async def answer(self, request: Request) -> Trace:
        """One request; a budget for thought and answer together, for a single request cannot tell them apart."""
        begun = time.perf_counter()
        prompt = (await self._prompter.open(request))["large"]
        routing, usage = request.routing, Usage()
        budget = min(prompt.room_tokens, routing.max_thinking_tokens + routing.max_answer_tokens)
        sampling = replace(request.sampling, seed=derived_seed(request.sampling.seed, 0, "large"))
        completion = await self._large.complete(prompt.ids, sampling, max_tokens=budget, usage=usage)
        wall_ms = (time.perf_counter() - begun) * 1000
        trace = Trace(
            id=uuid.uuid4().hex,
            created_unix_s=time.time() - wall_ms / 1000,
            policy="large, one blocking request",
            answer_by="large",
            sampling=request.sampling,
            messages=list(request.messages),
            small=ModelUsage(),
            large=ModelUsage(
                model=prompt.facts.model,
                calls=1,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                new_tokens=len(completion.ids),
            ),
            close_tag=prompt.format.close_tag,
            wall_ms=wall_ms,
        )
        _fill(trace, completion, prompt)
        return trace


def _fill(trace: Trace, completion: Completion, prompt: Prompt) -> None:
    """Thought and answer, parted at the closing tag. A thought that was cut has no answer."""
    thought, closed, answer = completion.text.partition(trace.close_tag)
    ids = list(completion.ids)
    split = _end_of_tag(ids, prompt.close_ids) if closed else len(ids)
    trace.steps = [Step(index=0, author="large", text=thought + closed, ids=ids[:split])]
    trace.steps[0].end = "closed" if closed else "context" if completion.finish == "length" else "end_token"
    trace.thought_end = "closed" if closed else "context" if completion.finish == "length" else "end_token"
    if closed:
        trace.answer = AnswerText(author="large", text=answer, ids=ids[split:], end=completion.finish)


def _end_of_tag(ids: list[int], tag: tuple[int, ...]) -> int:
    """Where the closing tag ends among the ids; all of them where it is not there as its own tokens."""
    for start in range(len(ids) - len(tag) + 1):
        if tuple(ids[start : start + len(tag)]) == tag:
            return start + len(tag)
    return len(ids)
