"""One answer by one method: a router's, a strategy's over it, or the large engine's own."""

from __future__ import annotations

from dataclasses import replace

from glimprouter.evaluate.graders.extraction import extract
from glimprouter.evaluate.methods import Method
from glimprouter.evaluate.suites.suite import Problem
from glimprouter.evaluate.suites.tiny import step_follows
from glimprouter.evaluate.unstreamed import Unstreamed, can_complete
from glimprouter.flow.engine import Engine
from glimprouter.flow.request import Request
from glimprouter.flow.reward import RewardEngine
from glimprouter.flow.trace import Trace
from glimprouter.policies.oracle import Oracle
from glimprouter.router import Router
from glimprouter.strategies import make_strategy


class Answerer:
    """Two engines, and a reward model where there is one."""

    def __init__(self, small: Engine, large: Engine, reward: RewardEngine | None = None) -> None:
        self.router = Router(small, large, reward=reward)
        self._unstreamed = Unstreamed(small, large) if can_complete(large) else None

    async def answer(self, request: Request, method: Method, problem: Problem) -> Trace:
        """Raises EngineError, and ConfigError for a method whose options nobody has fitted to this pair."""
        if method.unstreamed:
            assert self._unstreamed is not None, "planned without an engine that can"
            return await self._unstreamed.answer(request)
        if method.oracle:
            return await self.router.answer(request, policy=oracle_of(problem))
        fitted = await self.router.fitted(method.name)
        if method.strategy == "routed":
            routing = replace(request.routing, params={**fitted, **request.routing.params})
            return await self.router.answer(replace(request, routing=routing))
        strategy = make_strategy(method.strategy, method.strategy_params, fitted=fitted)
        return await strategy.answer(self.router, request, extract=extract)


def oracle_of(problem: Problem) -> Oracle:
    """Knows the way of the suite's solver."""
    return Oracle(lambda trace, step: step_follows(problem, trace.whole_steps()[0], step))
