"""Several replicas of one model as one engine: an answer has its place on one, and goes on elsewhere when that fails.

A stream that breaks is continued from the tokens handed out so far, on the same replica or another, so that its reader
notices nothing: no token twice, none lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from glimprouter.config import Sampling
from glimprouter.engines.breaker import Breaker, BreakerRules, BreakerState
from glimprouter.engines.rendezvous import Places
from glimprouter.engines.retries import Budget, Retries
from glimprouter.errors import (
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    GlimprouterError,
    PairError,
)
from glimprouter.flow.engine import Completion, Engine, EngineFacts, Message, Session, Token, Usage

T = TypeVar("T")

MOST_FAILURES_OF_STREAM = 50
"""However much a stream got on with between its failures."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What is known of a replica: how its breaker stands, how many answers have their place there, how calls went."""

    name: str
    breaker: BreakerState
    answers: int
    succeeded: int
    failed: int


class Replica:
    """One engine of the pool. `trusted`: its model was found to be the same as that of the others."""

    def __init__(self, engine: Engine, breaker: Breaker) -> None:
        self.engine = engine
        self.breaker = breaker
        self.trusted = False
        self.free_at = 0.0
        self.succeeded = self.failed = 0

    @property
    def name(self) -> str:
        return self.engine.name


class Pool:
    """An engine over replicas. `clock` and `sleep` are in seconds; `chance` draws from [0, 1)."""

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        name: str | None = None,
        retries: Retries | None = None,
        rules: BreakerRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name or ", ".join(engine.name for engine in engines)
        self._retries = retries or Retries()
        rules = rules or BreakerRules()
        self._replicas = {
            engine.name: Replica(engine, Breaker(rules, clock=clock, chance=chance)) for engine in engines
        }
        if len(self._replicas) < len(engines):
            raise PairError(f"{self.name}: an address is given twice; give each replica once", field="at")
        self._budget = Budget(self._retries)
        self._places = Places()
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._facts: EngineFacts | None = None
        self._check = asyncio.Lock()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The replicas themselves, in the order given."""
        return tuple(one.engine for one in self._replicas.values())

    @property
    def replicas(self) -> tuple[ReplicaState, ...]:
        return tuple(
            ReplicaState(one.name, one.breaker.state, self._places.answers_on(one.name), one.succeeded, one.failed)
            for one in self._replicas.values()
        )

    # What the model is -----------------------------------------------------------------------------------------------

    async def facts(self) -> EngineFacts:
        """Those of the first replica that answers; the others must agree before they are used.

        Raises PairError where two differ, EngineError where none answers.
        """
        if self._facts is None:
            outcomes = await asyncio.gather(
                *(one.engine.facts() for one in self._replicas.values()), return_exceptions=True
            )
            for one, outcome in zip(self._replicas.values(), outcomes, strict=True):
                if isinstance(outcome, EngineFacts):
                    self._trust(one, outcome)
                elif not isinstance(outcome, EngineError):
                    raise outcome
                else:
                    one.breaker.open()
            failures = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
            if self._facts is None:
                raise failures[0]
        assert self._facts is not None
        return self._facts

    def _trust(self, replica: Replica, facts: EngineFacts) -> None:
        """Use a replica from now on. Raises PairError where its model is another."""
        if self._facts is None:
            self._facts = facts
        for what in ("vocabulary", "chat_template", "takes_ids"):
            mine = getattr(self._facts, what)
            if getattr(facts, what) != mine and self._facts.takes_ids:
                raise PairError(
                    f"{replica.name} serves {facts.model}, whose {what.replace('_', ' ')} is not that of "
                    f"{self._facts.model} on the replicas beside it; give addresses of one and the same model",
                    field="at",
                )
        if facts.context_tokens < self._facts.context_tokens:
            self._facts = replace(self._facts, context_tokens=facts.context_tokens)
        replica.trusted = True

    async def render(self, messages: Sequence[Message]) -> str:
        return await self._anywhere(lambda engine: engine.render(messages))

    async def encode(self, text: str, *, special: bool = False) -> list[int]:
        return await self._anywhere(lambda engine: engine.encode(text, special=special))

    async def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return await self._anywhere(lambda engine: engine.encode_prompt(messages))

    async def decode(self, ids: Sequence[int]) -> str:
        return await self._anywhere(lambda engine: engine.decode(ids))

    async def _anywhere(self, call: Callable[[Engine], Awaitable[T]]) -> T:
        """A call that belongs to no answer, on whichever replica is well; tried again elsewhere when it fails."""
        trouble = _Trouble()
        while True:
            replica = await self._replica(None, trouble)
            try:
                with self._watched(replica):
                    return await call(replica.engine)
            except EngineError as error:
                await self._bear(error, replica, trouble)

    # Answers ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        top: int,
        usage: Usage,
        session: Session | None = None,
    ) -> AsyncIterator[AsyncIterator[Token]]:
        await self.facts()
        stream = self._tokens(list(ids), sampling, max_tokens, top, usage, session)
        async with aclosing(stream):
            yield stream

    async def _tokens(
        self, ids: list[int], sampling: Sampling, max_tokens: int, top: int, usage: Usage, session: Session | None
    ) -> AsyncGenerator[Token, None]:
        """The tokens of one call, in as many legs as it takes. A token is handed out with its character complete."""
        trouble = _Trouble()
        own_key = session.id if session is not None else None
        drawn: list[int] = []
        while True:
            replica = await self._replica(own_key, trouble)
            leg = Usage()
            spent = replace(sampling, seed=(sampling.seed + trouble.failures) % 2**63)
            unfinished: list[Token] = []
            try:
                with self._watched(replica):
                    async with replica.engine.generate(
                        [*ids, *drawn],
                        spent,
                        max_tokens=max_tokens - len(drawn),
                        top=top,
                        usage=leg,
                        session=session,
                    ) as tokens:
                        async for token in tokens:
                            if token.id >= 0 and not token.text:
                                unfinished.append(token)
                                continue
                            for one in (*unfinished, token):
                                if one.id >= 0:
                                    drawn.append(one.id)
                                    trouble.progressed()
                                yield one
                            unfinished.clear()
                            if token.finish is not None:
                                return
                    raise EngineProtocolError(f"{replica.name} ended a stream without saying why", engine=replica.name)
            except EngineError as error:
                if len(drawn) >= max_tokens:
                    yield Token(-1, "", finish="length")
                    return
                await self._bear(error, replica, trouble)
            finally:
                _add(usage, leg)

    async def complete(self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Completion:
        """In one blocking call, on any replica that can."""

        async def call(engine: Engine) -> Completion:
            whole: Completion = await engine.complete(ids, sampling, max_tokens=max_tokens, usage=usage)  # type: ignore[attr-defined]
            return whole

        return await self._anywhere(call)

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        """On the replica where the answer has its place, once: reading ahead is not worth a second try."""
        replica = await self._replica(session.id if session is not None else None, _Trouble())
        await replica.engine.prefill(ids, session=session)

    def leave(self, session: Session) -> None:
        self._places.leave(session.id)
        for one in self._replicas.values():
            one.engine.leave(session)

    async def close(self) -> None:
        for one in self._replicas.values():
            await one.engine.close()

    # Choosing, failing -----------------------------------------------------------------------------------------------

    async def _replica(self, key: str | None, trouble: _Trouble) -> Replica:
        """The place of an answer: where it has always been, unless that is in trouble. Without a key, any."""
        await self.facts()
        while True:
            well = [one for one in self._replicas.values() if one.breaker.lets_through]
            well = well or list(self._replicas.values())
            now = self._clock()
            free = [one for one in well if one.free_at <= now]
            if not free:
                wait_s = min(one.free_at for one in well) - now
                if wait_s > self._retries.longest_wait_s:
                    raise trouble.error or EngineUnavailable(
                        f"{self.name}: every replica asks to be left alone for {wait_s:.0f} s or more", engine=self.name
                    )
                await self._sleep(wait_s)
                continue
            names = [one.name for one in free if one.name not in trouble.failed_on] or [one.name for one in free]
            name = names[int(self._chance() * len(names))] if key is None else self._places.settle(key, names)
            replica = self._replicas[name]
            if replica.trusted or await self._is_trusted_now(replica, trouble):
                return replica

    async def _is_trusted_now(self, replica: Replica, trouble: _Trouble) -> bool:
        """Look at a replica that was away when the others were looked at."""
        async with self._check:
            if not replica.trusted:
                try:
                    self._trust(replica, await replica.engine.facts())
                except (EngineError, PairError) as error:
                    replica.breaker.open()
                    trouble.failed_on.add(replica.name)
                    if isinstance(error, EngineError):
                        trouble.error = error
                    if all(one.name in trouble.failed_on for one in self._replicas.values()):
                        raise
        return replica.trusted

    def _watched(self, replica: Replica) -> _Watch:
        self._budget.earn()
        return _Watch(replica, self)

    def may_open(self, replica: Replica) -> bool:
        """Not the last one that is closed: bad as it may be, there is no better."""
        return any(
            one is not replica and one.breaker.state == "closed" and one.trusted for one in self._replicas.values()
        )

    async def _bear(self, error: EngineError, replica: Replica, trouble: _Trouble) -> None:
        """Wait before the next try; raise where there is none."""
        trouble.note(error, replica.name)
        if error.retry_after_s is not None:
            replica.free_at = max(replica.free_at, self._clock() + error.retry_after_s)
        tired = trouble.in_a_row >= self._retries.attempts or trouble.failures > MOST_FAILURES_OF_STREAM
        if error.final or tired or not self._budget.spend():
            raise error
        if len(trouble.failed_on) >= len(self._replicas):
            trouble.failed_on.clear()
        if replica.name not in trouble.failed_on:
            await self._sleep(self._retries.wait_s(trouble.in_a_row, self._chance))


class _Trouble:
    """What one call has been through."""

    def __init__(self) -> None:
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


class _Watch:
    """Tells a replica's breaker how a call went. A caller that goes away tells nothing."""

    def __init__(self, replica: Replica, pool: Pool) -> None:
        self._replica = replica
        self._pool = pool
        self._on_trial = False

    def __enter__(self) -> None:
        self._on_trial = self._replica.breaker.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        replica = self._replica
        if isinstance(error, EngineError) and not error.final:
            replica.failed += 1
            replica.breaker.failed(may_open=self._pool.may_open(replica))
        elif error is None or isinstance(error, (GlimprouterError, GeneratorExit)):
            # Whoever has taken tokens and leaves, or is refused for what it asked, was served.
            replica.succeeded += 1
            replica.breaker.succeeded()
        elif self._on_trial:
            replica.breaker.end_trial()


def _add(usage: Usage, leg: Usage) -> None:
    usage.prompt_tokens += leg.prompt_tokens
    usage.cached_tokens += leg.cached_tokens
    usage.generated_tokens += leg.generated_tokens
    usage.requests += leg.requests
