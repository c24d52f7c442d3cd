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
from dataclasses import replace
from typing import TypeVar

from glimprouter.config import Sampling
from glimprouter.engines.agreement import agreed, agreed_later
from glimprouter.engines.breaker import Breaker, BreakerRules
from glimprouter.engines.rendezvous import Places
from glimprouter.engines.replica import Replica, ReplicaState, Watch
from glimprouter.engines.retries import Budget, Retries, Trouble
from glimprouter.errors import (
    ContextError,
    EngineError,
    EngineProtocolError,
    EngineUnavailable,
    InputError,
    PairError,
)
from glimprouter.flow.engine import Completion, Engine, EngineFacts, Message, Session, Token, Usage

T = TypeVar("T")


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
        self._budget = Budget(self._retries, clock=clock)
        self._places = Places()
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._facts: EngineFacts | None = None
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._closings = 0

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The replicas themselves, in the order given."""
        return tuple(one.engine for one in self._replicas.values())

    @property
    def replicas(self) -> tuple[ReplicaState, ...]:
        return tuple(one.state(self._places.answers_on(one.name)) for one in self._replicas.values())

    # What the model is -----------------------------------------------------------------------------------------------

    async def facts(self) -> EngineFacts:
        """What holds for every replica that answers; one that does not is looked at again before it is used.

        Raises PairError where two differ, EngineError where none answers.
        """
        if self._facts is None:
            replicas = list(self._replicas.values())
            outcomes = await asyncio.gather(*(one.engine.facts() for one in replicas), return_exceptions=True)
            if self._facts is None:
                self._facts = self._agreed(replicas, outcomes)
        return self._facts

    def _agreed(self, replicas: Sequence[Replica], outcomes: Sequence[EngineFacts | BaseException]) -> EngineFacts:
        common: EngineFacts | None = None
        for one, outcome in zip(replicas, outcomes, strict=True):
            if isinstance(outcome, EngineFacts):
                common = outcome if common is None else agreed(common, outcome, one.name)
            elif not isinstance(outcome, EngineError):
                raise outcome
        failures = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
        if common is None:
            raise failures[0]
        for one, outcome in zip(replicas, outcomes, strict=True):
            one.trusted = isinstance(outcome, EngineFacts)
            if not one.trusted:
                one.unused_because = str(outcome)
                one.breaker.open()
        return common

    def _ask_strangers(self) -> None:
        """Have those that were away asked in the background, now and then: nobody's answer shall wait for them."""
        for one in self._replicas.values():
            if not one.trusted and one.name not in self._asked and one.breaker.lets_through:
                one.breaker.enter()
                task = self._asked[one.name] = asyncio.create_task(self._ask(one))
                task.add_done_callback(lambda _, name=one.name: self._asked.pop(name, None))  # type: ignore[misc]

    async def _ask(self, replica: Replica) -> None:
        try:
            facts = await replica.engine.facts()
            assert self._facts is not None
            agreed_later(self._facts, facts, replica.name)
        except (EngineError, InputError) as error:
            replica.unused_because = str(error)
            replica.breaker.open()
            await replica.engine.close()
        except asyncio.CancelledError:
            replica.breaker.end_trial()
            raise
        else:
            replica.trusted = True
            replica.breaker.succeeded()

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
        trouble = Trouble(self._closings)
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
        """The tokens of one call, in as many legs as it takes. A token is handed out with its character complete, so
        that a leg never begins within one."""
        trouble = Trouble(self._closings)
        key = session.id if session is not None else None
        drawn: list[int] = []
        while True:
            replica = await self._replica(key, trouble)
            leg = Usage()
            # Another seed, or the continuation would be drawn with the numbers that drew the beginning.
            seeded = replace(sampling, seed=(sampling.seed + len(drawn)) % 2**63)
            left = max_tokens - len(drawn)
            held = _Held()
            try:
                with self._watched(replica) as watch:
                    async with replica.engine.generate(
                        [*ids, *drawn] if drawn else ids, seeded, max_tokens=left, top=top, usage=leg, session=session
                    ) as tokens:
                        async for token in tokens:
                            watch.answered()
                            for one in held.take(token):
                                if one.id >= 0:
                                    drawn.append(one.id)
                                    trouble.progressed()
                                yield one
                            if token.finish is not None:
                                return
                    raise EngineProtocolError(f"{replica.name} ended a stream without saying why", engine=replica.name)
            except EngineError as error:
                # All that was allowed has come; only the word that it is all was lost.
                if len(drawn) < max_tokens:
                    await self._bear(error, replica, trouble)
                    continue
            except ContextError:
                if not drawn:
                    raise
            finally:
                usage.add(leg)
            # The stream broke at the very end, or where the context is full.
            yield Token(-1, "", finish="length")
            return

    async def complete(self, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, usage: Usage) -> Completion:
        """In one blocking call, on any replica that can."""

        async def call(engine: Engine) -> Completion:
            whole: Completion = await engine.complete(ids, sampling, max_tokens=max_tokens, usage=usage)  # type: ignore[attr-defined]
            return whole

        return await self._anywhere(call)

    async def prefill(self, ids: Sequence[int], *, session: Session | None = None) -> None:
        """On the replica where the answer has its place, once: reading ahead is not worth a second try."""
        key = session.id if session is not None else None
        replica = await self._replica(key, Trouble(self._closings), may_wait=False)
        await replica.engine.prefill(ids, session=session)

    def leave(self, session: Session) -> None:
        self._places.leave(session.id)
        for one in self._replicas.values():
            one.engine.leave(session)

    async def close(self) -> None:
        """Close every replica. Calls under way fail; they do not go on elsewhere."""
        self._closings += 1
        for task in list(self._asked.values()):
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        outcomes = await asyncio.gather(
            *(one.engine.close() for one in self._replicas.values()), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    # Choosing, failing -----------------------------------------------------------------------------------------------

    async def _replica(self, key: str | None, trouble: Trouble, *, may_wait: bool = True) -> Replica:
        """The place of an answer: where it has always been, unless that is in trouble. Without a key, any."""
        await self.facts()
        self._ask_strangers()
        while True:
            known = [one for one in self._replicas.values() if one.trusted]
            well = [one for one in known if one.breaker.lets_through] or known
            now = self._clock()
            free = [one for one in well if one.free_at <= now]
            if free:
                break
            wait_s = min(one.free_at for one in well) - now
            if not may_wait or wait_s > self._retries.longest_wait_s:
                raise trouble.error or EngineUnavailable(
                    f"{self.name}: every replica asks to be left alone for {wait_s:.0f} s or more", engine=self.name
                )
            # Not all at the same moment.
            await self._sleep(wait_s + self._retries.wait_s(1, self._chance))
        names = [one.name for one in free if one.name not in trouble.failed_on] or [one.name for one in free]
        name = names[int(self._chance() * len(names))] if key is None else self._places.settle(key, names)
        return self._replicas[name]

    def _watched(self, replica: Replica) -> Watch:
        self._budget.earn()
        return Watch(replica, may_open=self._is_not_the_last)

    def _is_not_the_last(self, replica: Replica) -> bool:
        """Bad as it may be, a replica is not given up where there is no better one."""
        return any(
            one is not replica and one.trusted and one.breaker.state == "closed" for one in self._replicas.values()
        )

    async def _bear(self, error: EngineError, replica: Replica, trouble: Trouble) -> None:
        """Wait before the next try; raise where there is none."""
        trouble.note(error, replica.name)
        if error.retry_after_s is not None:
            replica.free_at = max(replica.free_at, self._clock() + error.retry_after_s)
        retries = self._retries
        tired = trouble.in_a_row >= retries.attempts or trouble.failures >= retries.most_failures
        if error.final or tired or trouble.closings != self._closings:
            raise error
        await self._pay(error, replica, trouble)
        if len(trouble.failed_on) >= len(self._replicas):
            trouble.failed_on.clear()
        if replica.name not in trouble.failed_on:
            await self._sleep(retries.wait_s(trouble.in_a_row, self._chance))

    async def _pay(self, error: EngineError, replica: Replica, trouble: Trouble) -> None:
        """For one retry, waiting where nothing is left but a good replica is there. Raises `error` where none is.

        So many answers can break at one replica's death that they may not all be begun again at once.
        """
        until = self._clock() + self._retries.longest_wait_s
        while not self._budget.spend():
            if not self._has_better(replica, trouble) or self._clock() >= until:
                raise error
            trouble.failed_on.add(replica.name)
            await self._sleep(self._retries.base_s + self._retries.wait_s(4, self._chance))

    def _has_better(self, replica: Replica, trouble: Trouble) -> bool:
        now = self._clock()
        return any(
            one is not replica
            and one.trusted
            and one.breaker.state == "closed"
            and one.free_at <= now
            and one.name not in trouble.failed_on
            for one in self._replicas.values()
        )


class _Held:
    """Tokens whose character is incomplete: they come with the one that completes it."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []

    def take(self, token: Token) -> Sequence[Token]:
        """What can be handed out now that `token` has come."""
        if token.id >= 0 and not token.text and token.finish is None:
            self._tokens.append(token)
            return ()
        if not self._tokens:
            return (token,)
        whole, self._tokens = [*self._tokens, token], []
        return whole
