"""RelayGen (arXiv 2602.06454): the large model writes; a sentence it opens with a cue word, after which it was found to
be sure of itself, the small model writes to its end.

As published: cues are profiled beforehand, on the large model's own thoughts, by the margin between the probabilities
of its two best tokens (`evaluate/fitting.py`), and the small model writes one sentence. Differences: cues count where a
sentence opens with them, not within one. That the small model writes the answer is `answer_by = "small"`.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimprouter.config import SIDES
from glimprouter.flow.moves import Plan, Write
from glimprouter.flow.trace import Trace
from glimprouter.flow.until import Until
from glimprouter.policies.params import described


@dataclass(frozen=True, slots=True)
class RelayGen:
    cues: tuple[str, ...]

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        yield from ()
        if trace.steps and trace.steps[-1].end == "cue":
            return Write("small", Until(sentence=True))
        return Write("large", Until(cues=self.cues))

    def describe(self) -> str:
        return described("relaygen", self)
