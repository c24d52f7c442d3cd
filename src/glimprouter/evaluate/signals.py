"""Is the first token enough? How well each signal of a step tells that the small model's step is wrong.

Known only where a step can be checked: the tiny suite's arithmetic. A signal is turned so that it rises with doubt.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from glimprouter.evaluate.case_study import verdict
from glimprouter.evaluate.collect import Collected, StepDraft
from glimprouter.flow.glimpse import Glimpse
from glimprouter.flow.trace import Trace
from glimprouter.stats import UNKNOWN, Estimate, Scored, cluster_auroc, cluster_mean, escalation_area


def varentropy(glimpse: Glimpse) -> float:
    """Variance of the surprise of the first token (nats squared), over the tokens seen, renormalised."""
    chances = _chances(glimpse)
    return max(0.0, math.fsum(p * (-math.log(p) - glimpse.entropy_nats) ** 2 for p in chances))


def margin(glimpse: Glimpse) -> float:
    """1 less the lead of the likeliest first token over the next."""
    first, second, *_ = [*sorted(_chances(glimpse), reverse=True), 0.0, 0.0]
    return 1.0 - (first - second)


def doubt_of_top(glimpse: Glimpse) -> float:
    """1 less the probability of the likeliest first token."""
    return 1.0 - max(_chances(glimpse), default=1.0)


def _chances(glimpse: Glimpse) -> list[float]:
    chances = [math.exp(logprob) for _, logprob in glimpse.top]
    total = math.fsum(chances)
    return [p / total for p in chances if p > 0.0]


FIRST_TOKEN: dict[str, Callable[[Glimpse], float]] = {
    "H_init": lambda glimpse: glimpse.entropy_nats,
    "margin": margin,
    "top-1": doubt_of_top,
    "varentropy": varentropy,
}
"""What one token tells: 1 - margin and 1 - top-1 probability, so that all rise with doubt."""


def _entropy_of_first(count: int) -> Callable[[StepDraft], float]:
    return lambda draft: statistics.fmean(draft.entropies_nats[:count] or [0.0])


WHOLE_STEP: dict[str, Callable[[StepDraft], float]] = {
    "H of first 2": _entropy_of_first(2),
    "H of first 4": _entropy_of_first(4),
    "H_step": lambda draft: statistics.fmean(draft.entropies_nats or [0.0]),
    "PPL_step": lambda draft: math.exp(statistics.fmean(draft.surprises_nats or [0.0])),
}
"""What is known once small has drafted the step, which it must then throw away where large writes."""

UNITS = {
    "H_init": "nats", "margin": "1 - margin", "top-1": "1 - probability", "varentropy": "nats²",
    "H of first 2": "nats", "H of first 4": "nats", "H_step": "nats", "PPL_step": "perplexity",
    "large's H_init": "nats", "step number": "steps",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SignalStep:
    """A step that small wrote or would write, and what is known of it. `large_right` None: large was not asked.

    `wrong` None: nothing in the step can be checked. `agree`: both models' steps say the same.
    """

    question: str
    family: str
    signals: Mapping[str, float]
    wrong: bool | None
    large_right: bool | None = None
    agree: bool | None = None


def steps_of(thoughts: Iterable[Collected]) -> Iterator[SignalStep]:
    """Every step of thoughts in which both models were asked."""
    for thought in thoughts:
        for number, step in enumerate(thought.steps):
            right, large_right = verdict(step.small.text), verdict(step.large.text)
            signals = {name: of(step.small.first) for name, of in FIRST_TOKEN.items()}
            signals |= {name: of(step.small) for name, of in WHOLE_STEP.items()}
            signals |= {"large's H_init": step.large.first.entropy_nats, "step number": float(number + 1)}
            yield SignalStep(
                question=thought.question,
                family=thought.family,
                signals=signals,
                wrong=None if right is None else not right,
                large_right=large_right is not False,
                agree=_said(step.small.text) == _said(step.large.text),
            )


def steps_of_traces(traces: Iterable[Trace]) -> Iterator[SignalStep]:
    """The glimpsed steps that small wrote in answers as they were routed: first-token signals only."""
    for trace in traces:
        for step in trace.steps:
            if step.author == "small" and step.glimpse is not None and step.glimpse.top:
                right = verdict(step.text)
                signals = {name: of(step.glimpse) for name, of in FIRST_TOKEN.items()}
                yield SignalStep(
                    question=trace.messages[-1]["content"],
                    family="",
                    signals=signals | {"step number": float(step.index + 1)},
                    wrong=None if right is None else not right,
                )


def _said(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class SignalRow:
    """A signal. `auroc`: how often a wrong step scores above a right one; 0.5 tells nothing. `area`: mean share of
    right steps over all shares given to large, highest scores first; unknown where large was not asked."""

    signal: str
    auroc: Estimate
    area: Estimate


@dataclass(frozen=True, slots=True)
class SignalTable:
    """`steps` could be checked, `wrong` of them are. `no_signal` is the area that a signal without knowledge has."""

    steps: int
    wrong: int
    questions: int
    rows: list[SignalRow]
    no_signal: float


def compare_signals(steps: Sequence[SignalStep]) -> SignalTable:
    """Every signal on the same steps, best first."""
    checked = [step for step in steps if step.wrong is not None]
    asked = bool(checked) and all(step.large_right is not None for step in checked)
    rows = []
    for name in checked[0].signals if checked else ():
        cases = [
            Scored(step.question, step.signals[name], bool(step.wrong), step.large_right is not False)
            for step in checked
        ]
        rows.append(SignalRow(name, cluster_auroc(cases), escalation_area(cases) if asked else UNKNOWN))
    rows.sort(key=lambda row: -row.auroc.value if not math.isnan(row.auroc.value) else 0.0)
    right_alone = statistics.fmean([not step.wrong for step in checked] or [math.nan])
    right_sent = statistics.fmean([step.large_right is not False for step in checked] or [math.nan])
    return SignalTable(
        steps=len(checked),
        wrong=sum(bool(step.wrong) for step in checked),
        questions=len({step.question for step in checked}),
        rows=rows,
        no_signal=(right_alone + right_sent) / 2 if asked else math.nan,
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of steps with H_init from `low_nats` to `high_nats`: how often both models write the same."""

    low_nats: float
    high_nats: float
    steps: int
    agree: Estimate


def agreement_by_entropy(steps: Sequence[SignalStep], *, parts: int = 8) -> list[Agreement]:
    """Parts of equal numbers of steps, from the lowest H_init up; one interval each, by drawing questions."""
    known = sorted((step for step in steps if step.agree is not None), key=lambda step: step.signals["H_init"])
    found = []
    for part in range(parts):
        members = known[part * len(known) // parts : (part + 1) * len(known) // parts]
        if not members:
            continue
        clusters: dict[str, list[float]] = {}
        for step in members:
            clusters.setdefault(step.question, []).append(float(bool(step.agree)))
        ends = members[0].signals["H_init"], members[-1].signals["H_init"]
        found.append(Agreement(*ends, len(members), cluster_mean(list(clusters.values()))))
    return found
