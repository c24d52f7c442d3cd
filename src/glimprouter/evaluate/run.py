"""Asks every question by every method, one answer at a time, interleaved, and keeps each answer as it comes.

Question by question the methods follow each other in an order drawn anew, so that whatever drifts on the machine hits
all of them alike. What the folder holds already is not asked again and keeps its own times.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from glimprouter.config import Sampling
from glimprouter.errors import EngineError
from glimprouter.evaluate.answering import Answerer
from glimprouter.evaluate.cpu import CpuMeter
from glimprouter.evaluate.graders.grade import Grade
from glimprouter.evaluate.methods import Method
from glimprouter.evaluate.records import AnswerFile, Key, Outcome, Record
from glimprouter.evaluate.suites.suite import Problem
from glimprouter.flow.engine import Engine
from glimprouter.flow.request import ask
from glimprouter.flow.reward import RewardEngine

Grading = Callable[[Problem, str], Grade]
"""A grader's `grade`; it may take seconds, and is called in a thread of its own."""

ATTEMPTS = 2
"""An engine that fails twice in a row at the same answer ends the run; what is kept is kept."""

_DISPLACING_TEXT = "Nothing of this is asked: it takes the place of the question before in the engines' caches."


@dataclass(frozen=True, slots=True)
class Slot:
    """One answer to be had."""

    problem: Problem
    method: Method
    sample: int

    @property
    def key(self) -> Key:
        return Key(self.problem.id, self.method.name, self.sample)


def slots(problems: Sequence[Problem], methods: Sequence[Method], *, samples: int, seed: int) -> Iterator[Slot]:
    """Every question by every method, the methods of a question in an order of its own; then the next sample."""
    for sample in range(samples):
        for problem in problems:
            order = list(methods)
            random.Random(f"{seed}/{problem.id}/{sample}").shuffle(order)
            yield from (Slot(problem, method, sample) for method in order)


def answer_seed(seed: int, question: str, sample: int) -> int:
    """The seed of an answer, the same for all methods: what is not routed differently is not drawn differently."""
    return int.from_bytes(blake2b(f"{seed}/{question}/{sample}".encode(), digest_size=4).digest(), "big")


class Runner:
    """Two engines at work on slots. `meter` None leaves CPU times out."""

    def __init__(
        self, small: Engine, large: Engine, *, sampling: Sampling, grade: Grading, meter: CpuMeter | None = None,
        reward: RewardEngine | None = None,
    ) -> None:  # fmt: skip
        self._engines = (small, large)
        self._answerer = Answerer(small, large, reward)
        self._sampling = sampling
        self._grade = grade
        self._meter = meter
        self._displacing: list[tuple[Engine, list[int]]] = []

    async def run(self, todo: Sequence[Slot], kept: AnswerFile) -> AsyncIterator[Outcome]:
        """Answer what is not there yet; each outcome after its line is written. Raises EngineError."""
        left = [slot for slot in todo if slot.key not in kept.outcomes]
        if left:
            await self._warm_up(left[0])
        for slot in left:
            yield kept.append(await self._try(slot))

    async def _warm_up(self, slot: Slot) -> None:
        """Connections, templates and the engines' first call cost time that belongs to no answer."""
        routing = replace(
            slot.method.routing,
            policy="small",
            params={},
            answer_by="large",
            max_thinking_tokens=4,
            max_answer_tokens=1,
        )
        await self._answerer.router.answer(ask(_DISPLACING_TEXT, routing=routing, sampling=self._sampling))

    async def _try(self, slot: Slot) -> Record:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._record(slot)
            except EngineError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _record(self, slot: Slot) -> Record:
        problem = slot.problem
        seed = answer_seed(self._sampling.seed, problem.id, slot.sample)
        request = ask(problem.question, routing=slot.method.routing, sampling=replace(self._sampling, seed=seed))
        await self._cool_down()
        cpu_begun_ms = self._cpu_ms()
        begun = time.perf_counter()
        trace = await self._answerer.answer(request, slot.method, problem)
        wall_ms = (time.perf_counter() - begun) * 1000
        cpu_ended_ms = self._cpu_ms()
        answer = trace.answer_text
        grade = await asyncio.to_thread(self._grade, problem, answer)
        return Record(
            question=problem.id,
            family=problem.family,
            method=slot.method.name,
            sample=slot.sample,
            correct=int(grade.correct),
            answer=answer,
            extracted=grade.extracted,
            reason=grade.reason,
            gold=problem.answer,
            wall_ms=wall_ms,
            cpu_ms=None if cpu_begun_ms is None or cpu_ended_ms is None else cpu_ended_ms - cpu_begun_ms,
            seed=seed,
            trace=trace,
        )

    async def _cool_down(self) -> None:
        """Leave no prefix of this question in a cache that holds one answer: methods must not warm it for each other.

        An engine that caches many answers (vLLM) keeps them; there, what a method finds cached may be another's.
        """
        if not self._displacing:
            self._displacing = [(engine, await engine.encode(_DISPLACING_TEXT)) for engine in self._engines]
        for engine, ids in self._displacing:
            await engine.prefill(ids)

    def _cpu_ms(self) -> float | None:
        return self._meter.read_ms() if self._meter else None
