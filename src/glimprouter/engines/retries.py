"""How often a call that failed is made again, and how long is waited before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` at a call without a token in between, the first included; seconds of full-jitter exponential back-off.

    Retries are paid from a budget, so that engines in trouble are not asked ever more: each call earns `budget_share`
    of a retry, `budget_spare` are there at the start and `budget_most` at most. `longest_wait_s` is how long a call
    waits where every replica has asked to be left alone (Retry-After); it fails at once where they ask for more.
    """

    attempts: int = 5
    base_s: float = 0.05
    cap_s: float = 2.0
    budget_share: float = 0.2
    budget_spare: float = 20.0
    budget_most: float = 100.0
    longest_wait_s: float = 30.0

    def wait_s(self, failures: int, chance: Callable[[], float]) -> float:
        """Anything up to `base_s`, doubled with every failure after the first, `cap_s` at most."""
        return chance() * min(self.cap_s, self.base_s * 2.0 ** (failures - 1))


class Budget:
    def __init__(self, retries: Retries) -> None:
        self._share = retries.budget_share
        self._most = retries.budget_most
        self._left = min(retries.budget_spare, retries.budget_most)

    def earn(self) -> None:
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Pay for a retry; False where there is nothing left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
