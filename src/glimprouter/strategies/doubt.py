"""How unsure the small model was of a whole thought: what decides about whole questions and answers."""

from __future__ import annotations

from math import fsum
from statistics import fmean
from typing import Literal

from glimprouter.flow.trace import Trace

Signal = Literal["h_init", "token_entropy"]


def doubt_nats(trace: Trace, signal: Signal) -> float:
    """Of a thought that small wrote alone (`alone`): mean H_init over its steps, or mean entropy over its tokens."""
    if signal == "h_init":
        return fmean(trace.entropies_nats) if trace.entropies_nats else 0.0
    drafts = [draft for step in trace.steps for draft in step.drafts if draft.mean_entropy_nats is not None]
    tokens = sum(draft.tokens for draft in drafts)
    return fsum((draft.mean_entropy_nats or 0.0) * draft.tokens for draft in drafts) / tokens if tokens else 0.0
