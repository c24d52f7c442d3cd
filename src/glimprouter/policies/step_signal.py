"""H_step and PPL_step: a step is drafted by the small model and stands if it was sure of the whole of it (GlimpRouter's
ablation, arXiv 2601.05110): by the mean entropy of its tokens, or by their perplexity.

The published text gives no thresholds: they are fitted to a pair, for the share of steps that the large model shall
write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from glimprouter.config import SIDES
from glimprouter.flow.drafted import Drafted
from glimprouter.flow.moves import Keep, Plan, Write, draft
from glimprouter.flow.trace import Trace
from glimprouter.policies.params import Within, described


@dataclass(frozen=True, slots=True)
class StepEntropy:
    """Large where H_step > `threshold` (nats)."""

    threshold: Annotated[float, Within(0, 100)]

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        return _verdict(step, step.mean_entropy_nats, self.threshold)

    def describe(self) -> str:
        return described("step-entropy", self)


@dataclass(frozen=True, slots=True)
class StepPerplexity:
    """Large where PPL_step > `threshold` (at least 1)."""

    threshold: Annotated[float, Within(1, 1e9)]

    authors = SIDES

    def plan(self, trace: Trace) -> Plan:
        step = yield from draft("small")
        return _verdict(step, step.perplexity, self.threshold)

    def describe(self) -> str:
        return described("step-perplexity", self)


def _verdict(step: Drafted, signal: float | None, threshold: float) -> Keep | Write:
    """A draft without any token that tells something (the end alone) stands."""
    return Write("large") if signal is not None and signal > threshold else Keep(step)
