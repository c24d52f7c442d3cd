"""Speculative Thinking (arXiv 2504.12329): the small model writes; where it opens a step with words of affirmation,
reflection or verification, the large one writes the next few tokens in its place.

As published: the small model's first tokens of a step are looked at; a cue among them hands over for `takeover_tokens`;
if the large model then speaks of verifying it goes on for `verify_tokens`; after every `reflections` reflecting
take-overs it goes on for `recap_tokens`. Cue words and numbers are those of the published settings. Differences: what
was looked at without a cue is kept, not drawn again; a take-over ends at a step's boundary; no sentence is put into the
large model's mouth before a recapitulation, and its numbers do not grow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.moves import Keep, Plan, Write, draft
from glimprouter.flow.trace import Step, Trace
from glimprouter.flow.until import Until
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class SpeculativeThinking:
    affirming: tuple[str, ...] = ("yeah", "yes", "final answer", "confident")
    reflecting: tuple[str, ...] = ("wait", "alternatively", "hold on", "another")
    verifying: tuple[str, ...] = ("verify", "think again", "recap", "check")
    look_tokens: Annotated[int, Within(1, 1000)] = 20
    takeover_tokens: Annotated[int, Within(1, 10_000)] = 20
    verify_tokens: Annotated[int, Within(1, 10_000)] = 125
    recap_tokens: Annotated[int, Within(1, 10_000)] = 125
    reflections: Annotated[int, Within(1, 1000)] = 15

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        if going_on := self._goes_on(trace.steps):
            return Write("large", Until(tokens=going_on))
        if trace.steps and trace.steps[-1].ends_within:
            return Write("small")
        look = yield from draft("small", Until(tokens=self.look_tokens))
        if says(look.text, (*self.affirming, *self.reflecting, *self.verifying)):
            return Write("large", Until(tokens=self.takeover_tokens))
        return Keep(look)

    def _goes_on(self, steps: list[Step]) -> int:
        """For how many tokens the large model goes on after a take-over; 0: it hands back."""
        takeover = list(takewhile(lambda step: step.author == "large", reversed(steps)))
        if len(takeover) != 1:
            return 0
        reflected = sum(step.author == "large" and says(step.text, self.reflecting) for step in steps)
        if says(takeover[0].text, self.reflecting) and reflected % self.reflections == 0:
            return self.recap_tokens
        return self.verify_tokens if says(takeover[0].text, self.verifying) else 0

    def describe(self) -> str:
        return described("speculative-thinking", self)


def says(text: str, cues: Iterable[str]) -> bool:
    """Whether one of the words or phrases occurs, whole, in any case."""
    return any(re.search(rf"\b{re.escape(cue)}\b", text, re.IGNORECASE) for cue in cues)
