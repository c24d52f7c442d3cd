"""Self-correction as a statistic: what happens after a slip of the small model, and after steps without one.

A slip is a step by small, taken into the thought, that says something wrong. The step after it mends the slip where it
says the same thing of the right number. Both models were asked at that step (`evaluate --collect`), so each one's share
of mended slips is known from the same places; a random choice mends as often as chance picks one that does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from glimprouter.evaluate.case_study import claim, verdict
from glimprouter.evaluate.collect import Collected, CollectedStep
from glimprouter.stats import UNKNOWN, Estimate, cluster_mean


@dataclass(frozen=True, slots=True)
class After:
    """Steps after a slip, or after a step without one. Shares of those steps: H_init above the threshold; good if
    written by small, by large, by a random choice at the same share, or as routed. After a slip good means that it is
    mended, else that nothing wrong is said."""

    WRITERS: ClassVar = ("small", "large", "random", "routed")

    steps: int
    above_threshold: Estimate
    small: Estimate
    large: Estimate
    random: Estimate
    routed: Estimate


@dataclass(frozen=True, slots=True)
class SelfCorrection:
    threshold_nats: float
    after_slip: After
    after_none: After


@dataclass(frozen=True, slots=True)
class _Place:
    question: str
    above: bool
    small_good: bool
    large_good: bool


def self_correction(thoughts: Iterable[Collected], threshold_nats: float) -> SelfCorrection:
    """Over all steps that follow a step by small which can be checked."""
    places: dict[bool, list[_Place]] = {True: [], False: []}
    for thought in thoughts:
        for before, step in zip(thought.steps, thought.steps[1:], strict=False):
            right = verdict(before.small.text) if before.author == "small" else None
            if right is not None:
                places[not right].append(_place(thought.question, before, step, slip=not right, tau=threshold_nats))
    return SelfCorrection(threshold_nats, _after(places[True]), _after(places[False]))


def mends(slip: str, text: str) -> bool:
    """Whether a step says, rightly, of another number what a slip said."""
    return verdict(text) is True and claim(text) == claim(slip) != ""


def _place(question: str, before: CollectedStep, step: CollectedStep, *, slip: bool, tau: float) -> _Place:
    good = partial(mends, before.small.text) if slip else _says_nothing_wrong
    return _Place(question, step.small.first.entropy_nats > tau, good(step.small.text), good(step.large.text))


def _says_nothing_wrong(text: str) -> bool:
    return verdict(text) is not False


def _after(places: list[_Place]) -> After:
    if not places:
        return After(0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    share = sum(place.above for place in places) / len(places)

    def mean(value: Callable[[_Place], float]) -> Estimate:
        clusters: dict[str, list[float]] = defaultdict(list)
        for place in places:
            clusters[place.question].append(float(value(place)))
        return cluster_mean(list(clusters.values()))

    return After(
        steps=len(places),
        above_threshold=mean(lambda place: place.above),
        small=mean(lambda place: place.small_good),
        large=mean(lambda place: place.large_good),
        random=mean(lambda place: share * place.large_good + (1.0 - share) * place.small_good),
        routed=mean(lambda place: place.large_good if place.above else place.small_good),
    )
