"""The paper's case study, looked for in recorded answers: small slips, H_init rises, large corrects, small goes on.

Whether a step is right is checked for the tiny suite's arithmetic only; nothing is found among other answers.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from glimprouter.evaluate.suites.tiny import step_is_right
from glimprouter.flow.trace import Step, Trace

_DOUBT = re.compile(r"\s*(but |no, )?(wait|hold on|hmm|no|actually|let me check)\b", re.IGNORECASE)
_THRESHOLD = re.compile(r"threshold=([-+.e\d]+)")
_CLAIM = re.compile(r"-?\d+\b(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Correction:
    """Step `slip`, written by small, is wrong; step `mended`, written by large at a high H_init, says it right."""

    trace: Trace
    slip: int
    mended: int


def corrections(traces: Iterable[Trace]) -> Iterator[Correction]:
    """At most one of each answer: the first."""
    for trace in traces:
        for mended in range(1, len(trace.steps)):
            if (slip := _slip_before(trace, mended)) is not None:
                yield Correction(trace, slip, mended)
                break


def clearest(found: Iterable[Correction]) -> Correction | None:
    """The one to show: the slip is the only mistake, it is mended at once, and H_init stands out most there."""
    return max(found, key=_clarity, default=None)


def _slip_before(trace: Trace, mended: int) -> int | None:
    """The step that step `mended` corrects, if it is a correction after which small goes on."""
    step = trace.steps[mended]
    if step.author != "large" or not _DOUBT.match(step.text) or not _rises_above_threshold(trace, step):
        return None
    if not any(later.author == "small" for later in trace.steps[mended + 1 :]) or verdict(step.text) is not True:
        return None
    for slip in range(mended - 1, -1, -1):
        earlier = trace.steps[slip]
        if earlier.author == "small" and verdict(earlier.text) is False and claim(earlier.text) == claim(step.text):
            return slip
    return None


def _rises_above_threshold(trace: Trace, step: Step) -> bool:
    threshold = _THRESHOLD.search(trace.policy)
    return step.glimpse is not None and threshold is not None and step.glimpse.entropy_nats > float(threshold[1])


def verdict(text: str) -> bool | None:
    """Whether every statement of a step that can be checked is right; None where none can be."""
    verdicts = {_is_right(paragraph) for paragraph in text.split("\n\n")}
    return None if verdicts == {None} else False not in verdicts


def _is_right(paragraph: str) -> bool | None:
    try:
        return step_is_right(paragraph)
    except ModuleNotFoundError:  # without reasoning-gym nobody knows how many legs a sheep has
        return None


def claim(text: str) -> str:
    """What a step says of its number: a correction says the same of another one."""
    match = _CLAIM.search(text)
    return " ".join(match[1].split()) if match else ""


def _clarity(found: Correction) -> tuple[bool, bool, float]:
    trace, step = found.trace, found.trace.steps[found.mended]
    whole = trace.error is None and trace.thought_end == "closed"
    others = (other for other in trace.steps if other.index != found.slip)
    all_right = whole and all(verdict(other.text) is not False for other in others)
    routine = [other.glimpse.entropy_nats for other in trace.steps if other.author == "small" and other.glimpse]
    height = step.glimpse.entropy_nats if step.glimpse else 0.0
    return all_right, found.mended == found.slip + 1, height - (statistics.fmean(routine) if routine else height)
