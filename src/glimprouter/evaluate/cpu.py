"""CPU time of this process and of the engines it started, to the microsecond, where the system tells (Linux)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_CLOCK_SCHED = 2
"""Linux's CPUCLOCK_SCHED: time on a CPU as the scheduler counts it (see clock_getcpuclockid(3))."""


class CpuMeter:
    """Counts the processes that run when it is made; made after the engines have started, it counts them too.

    CPU time is all threads' time, busy waiting included. What runs on another machine is not seen: for remote engines
    use no meter rather than this one.
    """

    def __init__(self) -> None:
        self._children = descendants(os.getpid()) if sys.platform == "linux" else None

    def read_ms(self) -> float | None:
        """CPU milliseconds used so far; None where they cannot be had, as when a counted process is gone."""
        if self._children is None:
            return None
        try:
            children = sum(time.clock_gettime(_clock_of(child)) for child in self._children)
        except OSError:
            self._children = None
            return None
        return (time.process_time() + children) * 1000


def _clock_of(process: int) -> int:
    return (~process << 3) | _CLOCK_SCHED


def descendants(process: int) -> list[int]:
    """Process ids below a process, as /proc tells them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # gone meanwhile
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
