"""READ THIS FIRST: two models write one answer.

A thought is written step by step. Before each step the policy may glimpse its first token; its verdict says who writes
the step; the other model hears of it when next it is needed. When the thought is closed the answer is written.

    request -> prompt (one per model) -> [ step: glimpse -> decide -> write -> hand over ]* -> answer -> trace
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from glimprouter.config import PUBLISHED_THRESHOLD_NATS, SIDES, Param, Routing, Side
from glimprouter.errors import ContextError, EngineError
from glimprouter.flow.answer import Event, Finished, Started
from glimprouter.flow.deciding import Judges
from glimprouter.flow.dispatch import Dispatch
from glimprouter.flow.engine import Engine, Session
from glimprouter.flow.judging import Judge
from glimprouter.flow.moves import StepPolicy
from glimprouter.flow.prior import Calibrated
from glimprouter.flow.prompt import Prompt, Prompter
from glimprouter.flow.request import Request
from glimprouter.flow.reward import RewardEngine
from glimprouter.flow.trace import ModelUsage, Trace
from glimprouter.flow.writer import Traffic, Writer, WriterPair
from glimprouter.policies import make_policy
from glimprouter.policies.fitted import fitted_params
from glimprouter.policies.priors import Priors


class Router:
    """A pair of engines and the loop over them. One router drives many answers at once in one event loop."""

    def __init__(
        self,
        small: Engine,
        large: Engine,
        *,
        reward: RewardEngine | None = None,
        threshold_nats: float | None = None,
        calibrated: Calibrated | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threshold_nats` is the pair's calibrated one; without it the published 0.9 applies.

        `calibrated` is all that a profile holds, the threshold included.
        `reward` is the reward model that policies may ask; most ask none.
        """
        self._engines: dict[Side, Engine] = {"small": small, "large": large}
        self._calibrated = calibrated or Calibrated(
            PUBLISHED_THRESHOLD_NATS if threshold_nats is None else threshold_nats
        )
        self._priors = Priors()
        self._traffic: dict[Side, Traffic] = {"small": Traffic(), "large": Traffic()}
        self._judges = Judges({side: Judge(side, engine) for side, engine in self._engines.items()}, reward)
        self._prompter = Prompter(small, large)
        self._clock = clock

    async def stream(self, request: Request, *, policy: StepPolicy | None = None) -> AsyncGenerator[Event, None]:
        """Write an answer, yielding what happens as it happens; closing the iterator stops both engines.

        `policy` stands in for the one that the request names. Raises InputError before anything is written. An engine
        that fails later ends the answer instead: `Finished` comes with `trace.error` set and everything written so far.
        """
        known = self._calibrated
        routing = known.fill(request.routing)
        begun = self._clock()
        policy = policy or await self._policy_for(routing, request.sampling.seed)
        prompts = await self._prompter.open(request)
        trace = self._new_trace(request, policy.describe(), prompts)
        loan = self._priors.lend(routing, known, trace)
        try:
            yield Started(trace)
            async with self._writers(request, trace, prompts) as writers:
                flow = Dispatch(
                    request, writers, trace, self._judges, authors=policy.authors, begun=begun, clock=self._clock
                )
                while flow.thinking:
                    verdict = await flow.decide(policy)
                    async with aclosing(flow.carry_out(verdict)) as step:
                        async for event in step:
                            yield event
                async with aclosing(flow.answer()) as answer:
                    async for event in answer:
                        yield event
        except (EngineError, ContextError) as error:
            trace.error = str(error)
        except (asyncio.CancelledError, GeneratorExit):
            trace.mark_cancelled()
            raise
        finally:
            trace.wall_ms = (self._clock() - begun) * 1000
            if loan:
                loan.repay()
        yield Finished(trace)

    async def answer(self, request: Request, *, policy: StepPolicy | None = None) -> Trace:
        """Write an answer and return its trace. Raises AnswerFailed, with the partial trace, where an engine failed."""
        async with aclosing(self.stream(request, policy=policy)) as events:
            traces = [event.trace async for event in events if isinstance(event, Finished)]
        if traces[0].error is not None:
            raise AnswerFailed(traces[0])
        return traces[0]

    async def fitted(self, method: str) -> Mapping[str, Param]:
        """The options of a policy or strategy that were fitted to this pair beforehand; none for most pairs."""
        small, large = [(await self._engines[side].facts()).model for side in SIDES]
        return fitted_params(method, small, large)

    async def _policy_for(self, routing: Routing, seed: int) -> StepPolicy:
        known = self._calibrated
        return make_policy(
            routing,
            threshold_nats=known.threshold if routing.threshold is None else routing.threshold,
            seed=seed,
            scale=known.scale,
            fitted=await self.fitted(routing.policy),
            has_reward=self._judges.reward is not None,
        )

    def _writers(self, request: Request, trace: Trace, prompts: dict[Side, Prompt]) -> WriterPair:
        session = Session(trace.id, trace.created_unix_s)

        def writer(side: Side, top: int) -> Writer:
            return Writer(
                side,
                self._engines[side],
                prompts[side],
                request.sampling,
                session,
                top=top,
                usage=trace.usage_of(side),
                traffic=self._traffic[side],
                warm_beside_calls=request.routing.warm_beside_calls,
            )

        return WriterPair(writer("small", request.routing.glimpse_top), writer("large", 0))

    def _new_trace(self, request: Request, policy: str, prompts: dict[Side, Prompt]) -> Trace:
        return Trace(
            id=uuid.uuid4().hex,
            created_unix_s=time.time(),
            policy=policy,
            answer_by=request.routing.answer_by,
            sampling=request.sampling,
            messages=list(request.messages),
            prompt_tokens=len(prompts[request.routing.answer_by].ids),
            small=ModelUsage(model=prompts["small"].facts.model),
            large=ModelUsage(model=prompts["large"].facts.model),
            close_tag=prompts["small"].format.close_tag,
        )


class AnswerFailed(EngineError):
    """An engine failed inside an answer; `trace` holds what was written before."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.error or "the answer failed")
        self.trace = trace
