"""One replica of a model in a pool: its engine, its breaker, and how calls to it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from glimprouter.engines.breaker import Breaker, BreakerState
from glimprouter.errors import EngineError, GlimprouterError
from glimprouter.flow.engine import Engine


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What is known of a replica: how its breaker stands, how many answers have their place there, how calls went.

    `unused_because` says why it is not used at all: it has not come up yet, or serves another model. Else it is empty.
    """

    name: str
    breaker: BreakerState
    answers: int
    succeeded: int
    failed: int
    unused_because: str = ""


class Replica:
    """One engine of a pool. `trusted`: its model was found to be that of the others. `free_at`: until then, by the
    pool's clock, it asked to be left alone."""

    def __init__(self, engine: Engine, breaker: Breaker) -> None:
        self.engine = engine
        self.breaker = breaker
        self.trusted = False
        self.unused_because = ""
        self.free_at = 0.0
        self.succeeded = self.failed = 0

    @property
    def name(self) -> str:
        return self.engine.name

    def state(self, answers: int) -> ReplicaState:
        return ReplicaState(
            self.name, self.breaker.state, answers, self.succeeded, self.failed, "" if self.trusted else self._why()
        )

    def _why(self) -> str:
        return self.unused_because or "not asked yet"


class Watch:
    """Around one call: tells the breaker how it went. A caller that goes away before the first token tells nothing."""

    def __init__(self, replica: Replica, *, may_open: Callable[[Replica], bool]) -> None:
        """`may_open` is asked when the call has failed: whether there is another replica to turn to."""
        self._replica = replica
        self._may_open = may_open
        self._on_trial = False

    def __enter__(self) -> Self:
        self._on_trial = self._replica.breaker.enter()
        return self

    def answered(self) -> None:
        """The first token has come. A trial ends with it: the rest of a stream may take minutes."""
        if self._on_trial:
            self._on_trial = False
            self._replica.breaker.succeeded()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        replica = self._replica
        if isinstance(error, EngineError) and not error.final:
            replica.failed += 1
            replica.breaker.failed(may_open=self._may_open(replica))
        elif error is None or isinstance(error, (GlimprouterError, GeneratorExit)):
            # Whoever has taken tokens and leaves, or is refused for what it asked, was served.
            replica.succeeded += 1
            replica.breaker.succeeded()
        elif self._on_trial:
            replica.breaker.end_trial()
