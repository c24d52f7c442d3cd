"""When a replica is left alone for a while, and how it is taken back: a breaker.

Closed, it lets every call through and remembers how the last ones went. Open, it lets none through for a time.
Half-open, it lets one through, the trial, whose outcome closes it or opens it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BreakerState = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """Of the last `most_calls` outcomes no older than `window_s`, `failure_share` or more failed, and there are at
    least `least_calls`: the breaker opens, for `open_s` and up to `jitter_share` of that more.

    The window ends by count too, so that a replica that dies under load is noticed after tens of calls, not thousands.
    """

    most_calls: int = 20
    least_calls: int = 5
    window_s: float = 30.0
    failure_share: float = 0.5
    open_s: float = 10.0
    jitter_share: float = 0.5


class Breaker:
    """One replica's. `clock` is in seconds, `chance` draws from [0, 1)."""

    def __init__(self, rules: BreakerRules, *, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._chance = chance
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=rules.most_calls)
        self._open_until: float | None = None
        self._on_trial = False

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def lets_through(self) -> bool:
        state = self.state
        return state == "closed" or (state == "half-open" and not self._on_trial)

    def enter(self) -> bool:
        """A call goes through; whether it is the trial, which must end in `succeeded`, `failed` or `end_trial`."""
        self._on_trial = self.state == "half-open"
        return self._on_trial

    def end_trial(self) -> None:
        """The trial ended without telling anything: its caller went away."""
        self._on_trial = False

    def succeeded(self) -> None:
        if self.state == "half-open":
            self._open_until = None
            self._on_trial = False
            self._outcomes.clear()
        self._outcomes.append((self._clock(), False))

    def failed(self, *, may_open: bool) -> None:
        """`may_open` is False for the last replica that is closed: bad as it may be, there is no better one."""
        state = self.state
        self._outcomes.append((self._clock(), True))
        if state == "half-open" or (state == "closed" and may_open and self._is_bad()):
            self.open()

    def open(self) -> None:
        self._on_trial = False
        self._open_until = self._clock() + self._rules.open_s * (1 + self._rules.jitter_share * self._chance())

    def _is_bad(self) -> bool:
        begun = self._clock() - self._rules.window_s
        recent = [failed for at, failed in self._outcomes if at >= begun]
        return len(recent) >= self._rules.least_calls and sum(recent) >= self._rules.failure_share * len(recent)
