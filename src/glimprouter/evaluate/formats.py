"""Figures as texts. Accuracies and shares in per cent, differences in points, 95 % intervals beside."""

from __future__ import annotations

import math

from glimprouter.stats import Estimate

NONE = "–"


def number(value: float | None, form: str) -> str:
    return NONE if value is None or math.isnan(value) else format(value, form)


def share(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.1%}"


def per_cent(estimate: Estimate) -> str:
    return interval(estimate, "{:.1f}", scale=100)


def points(estimate: Estimate) -> str:
    return interval(estimate, "{:+.1f}", scale=100)


def interval(estimate: Estimate, form: str, *, scale: float = 1.0) -> str:
    """`value [low, high]`; a dash where there is no value, a question mark where there is no interval."""
    if math.isnan(estimate.value):
        return NONE
    value, low, high = (form.format(scale * part) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [?]" if math.isnan(estimate.low) else f"{value} [{low}, {high}]"
