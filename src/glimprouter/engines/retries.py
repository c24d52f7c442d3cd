"""How often a call that failed is made again, and how long is waited before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glimprouter.errors import EngineError, EngineTimeout


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` at a call without a token in between, the first included, and `most_failures` of one call in all;
    seconds of full-jitter exponential back-off.

    Retries are paid from a budget, so that engines in trouble are not asked ever more: each call earns `budget_share`
    of a retry and each second `budget_per_s`; `budget_spare` are there at the start and `budget_most` at most. With
    nothing left a call fails, unless a replica that is well is there to go on: then it waits for its turn.
    `longest_wait_s` is how long it does, and how long it waits where every replica has asked to be left alone
    (Retry-After); it fails at once where they ask for more.
    """

    attempts: int = 5
    most_failures: int = 50
    base_s: float = 0.05
    cap_s: float = 2.0
    budget_share: float = 0.2
    budget_per_s: float = 10.0
    budget_spare: float = 20.0
    budget_most: float = 100.0
    longest_wait_s: float = 30.0

    def wait_s(self, failures: int, chance: Callable[[], float]) -> float:
        """Anything up to `base_s`, doubled with every failure after the first, `cap_s` at most."""
        return chance() * min(self.cap_s, self.base_s * 2.0 ** (failures - 1))


class Budget:
    """`clock` is in seconds."""

    def __init__(self, retries: Retries, *, clock: Callable[[], float]) -> None:
        self._retries = retries
        self._clock = clock
        self._left = min(retries.budget_spare, retries.budget_most)
        self._seen_at = clock()

    def earn(self) -> None:
        self._add(self._retries.budget_share)

    def spend(self) -> bool:
        """Pay for a retry; False where there is nothing left."""
        now = self._clock()
        self._add((now - self._seen_at) * self._retries.budget_per_s)
        self._seen_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _add(self, retries: float) -> None:
        self._left = min(self._retries.budget_most, self._left + retries)


class Trouble:
    """What one call has been through. `closings`: how often the pool had been closed when it began."""

    def __init__(self, closings: int) -> None:
        self.closings = closings
        self.failures = self.in_a_row = 0
        self.failed_on: set[str] = set()
        self.error: EngineError | None = None
        self._last = ""

    def note(self, error: EngineError, name: str) -> None:
        """A replica that has the answer's prefix in its cache gets a second chance, unless it keeps people waiting."""
        if name == self._last or isinstance(error, EngineTimeout) or error.retry_after_s is not None:
            self.failed_on.add(name)
        self.failures += 1
        self.in_a_row += 1
        self.error = error
        self._last = name

    def progressed(self) -> None:
        if self.in_a_row:
            self.in_a_row, self._last = 0, ""
            self.failed_on.clear()
