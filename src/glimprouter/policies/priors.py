"""What answers leave to each other, kept by a router for the policies that learn."""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from glimprouter.config import Routing, from_table
from glimprouter.flow.prior import CALIBRATED_WEIGHT_STEPS, Calibrated, Prior
from glimprouter.flow.quantiles import grid_of
from glimprouter.flow.signals import Signal, signal_named
from glimprouter.flow.trace import Trace
from glimprouter.policies.share import ShareOptions
from glimprouter.policies.standing import own_values

LEARNERS = ("share", "budget", "instance")
"""Policies that read the prior in a trace's header."""

Key = tuple[str, str, float]
"""Policy, signal, and the share of steps that answers owe each other (0: none)."""

MOST_KEPT = 256
"""Callers may ask for any target; the priors that were not used for longest are dropped."""

MEMORY_ANSWERS = 50
"""Means forget over so many answers."""


@dataclass(slots=True)
class Memory:
    """What answers of one way of routing have shown: the signals of their last steps, running means, what is owed."""

    values: deque[float]
    prior: Prior
    answers: int = 0

    @classmethod
    def beginning(cls, prior: Prior) -> Self:
        """As if the steps that the prior stands for had been seen, evenly drawn from it."""
        copies = round(prior.weight_steps / len(prior.quantiles))
        drawn = prior.quantiles * copies or prior.quantiles[:: round(len(prior.quantiles) / prior.weight_steps)]
        return cls(deque(drawn, maxlen=round(CALIBRATED_WEIGHT_STEPS)), prior)

    def lend(self) -> Prior:
        """The prior for the next answer, with all that is owed."""
        lent, self.prior = self.prior, replace(self.prior, excess_steps=0.0)
        return lent

    def fold(self, trace: Trace, signal: Signal, target: float) -> None:
        """Learn from an answer, whatever became of it; one broken off tells nothing of a thought's length.

        A `target` of 0 is none: nothing is owed then.
        """
        self.answers += 1
        large = [step for step in trace.steps if step.author == "large"]
        lent = trace.prior.excess_steps if trace.prior else 0.0
        self.values += own_values(trace, signal)
        prior = self.prior
        self.prior = Prior(
            quantiles=grid_of(self.values),
            weight_steps=float(len(self.values)),
            mean_steps=self._moved(prior.mean_steps, [len(trace.steps)] if trace.error is None else []),
            mean_large_tokens=self._moved(prior.mean_large_tokens, [step.tokens for step in large]),
            mean_large_ms=self._moved(prior.mean_large_ms, [step.wall_ms for step in large]),
            excess_steps=prior.excess_steps + (lent + len(large) - target * len(trace.steps) if target else 0.0),
        )

    def _moved(self, mean: float, seen: Sequence[float]) -> float:
        """A running mean that forgets; 0 is a mean not known yet."""
        if not seen:
            return mean
        value = statistics.fmean(seen)
        return mean + (value - mean) / min(self.answers, MEMORY_ANSWERS) if mean else value


class Priors:
    """One memory for each way of routing. Nothing here waits, so answers under way in one loop cannot cut in."""

    def __init__(self) -> None:
        self._memories: OrderedDict[Key, Memory] = OrderedDict()

    def lend(self, routing: Routing, known: Calibrated, trace: Trace) -> Loan | None:
        """Put a snapshot into the trace's header, where the policy learns; what comes of it is repaid at the end.

        What is owed is lent whole, to one answer at a time: of many that begin together only one works it off.
        """
        if routing.policy not in LEARNERS:
            return None
        signal = signal_named(routing.signal or known.signal, known.scale)
        target = _target(routing)
        key = (routing.policy, signal.name, target)
        memory = self._memories.setdefault(key, Memory.beginning(known.prior()))
        self._memories.move_to_end(key)
        if len(self._memories) > MOST_KEPT:
            self._memories.popitem(last=False)
        trace.prior = memory.lend()
        return Loan(memory, trace, signal, target)


@dataclass(frozen=True, slots=True)
class Loan:
    """The snapshot that one answer is written with."""

    memory: Memory
    trace: Trace
    signal: Signal
    target: float

    def repay(self) -> None:
        self.memory.fold(self.trace, self.signal, self.target)


def _target(routing: Routing) -> float:
    """The share of steps that answers owe each other; 0 where they owe nothing."""
    return (
        from_table(ShareOptions, dict(routing.params), where="policy share").target if routing.policy == "share" else 0
    )
