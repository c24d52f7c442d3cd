"""The clock of one answer: since it began, and since its last step ended."""

from __future__ import annotations

from collections.abc import Callable

from glimprouter.flow.trace import Trace


class Timing:
    """`begun` is when the request came, by `clock` (seconds)."""

    def __init__(self, clock: Callable[[], float], begun: float, trace: Trace) -> None:
        self._clock = clock
        self._begun = self._step_begun = begun
        self._trace = trace

    def since_begun_ms(self) -> float:
        return (self._clock() - self._begun) * 1000

    def since_step_ms(self) -> float:
        return (self._clock() - self._step_begun) * 1000

    def step_ended(self) -> float:
        """Milliseconds since the step before ended; the next one begins now."""
        now = self._clock()
        wall_ms = (now - self._step_begun) * 1000
        self._step_begun = now
        return wall_ms

    def text_shown(self) -> None:
        """Note when the first text of the answer was shown."""
        if not self._trace.first_token_ms:
            self._trace.first_token_ms = self.since_begun_ms()
