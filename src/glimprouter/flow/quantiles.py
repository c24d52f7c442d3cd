"""A distribution kept as a few values at evenly spaced shares: small enough for a trace's header and for a profile."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

POINTS = 33
"""Values kept, each the middle of an equal share; between neighbours a distribution is taken to be even."""


def rank(grid: Sequence[float], value: float) -> float:
    """Share of the distribution below `value`, from 0 to 1; the middle of its shares where the value is an atom."""
    low, high = bisect_left(grid, value), bisect_right(grid, value)
    if low < high:
        return (low + high) / 2 / len(grid)
    if low in (0, len(grid)):
        return float(low > 0)
    return (low - 0.5 + (value - grid[low - 1]) / (grid[low] - grid[low - 1])) / len(grid)


def grid_of(values: Iterable[float], points: int = POINTS) -> tuple[float, ...]:
    """The grid of some values, linear between neighbours; empty where there are none."""
    ordered = sorted(values)
    return tuple(_at((place + 0.5) / points, ordered) for place in range(points)) if ordered else ()


def _at(share: float, ordered: Sequence[float]) -> float:
    """The value at a share, each of `ordered` being the middle of an equal one."""
    place = min(max(share * len(ordered) - 0.5, 0.0), len(ordered) - 1.0)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return min(ordered[high], ordered[low] + (ordered[high] - ordered[low]) * (place - low))
