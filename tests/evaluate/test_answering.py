"""Every row of the evaluation is answered for real by the tiny pair; the oracle knows the solver's way."""

import pytest

pytest.importorskip("reasoning_gym")

from glimprouter.config import Routing, Sampling
from glimprouter.evaluate.answering import Answerer
from glimprouter.evaluate.methods import METHODS, methods_of
from glimprouter.evaluate.suites.drawing import draw
from glimprouter.evaluate.suites.tiny import solve, step_follows
from glimprouter.flow.request import ask
from glimprouter.pair import open_pair


async def test_every_method_answers_on_the_tiny_pair() -> None:
    rows = methods_of(list(METHODS), Routing(), threshold_nats=0.5, random_p=0.3)
    [problem] = draw("calibrate", 6)[:1]
    async with open_pair() as pair:
        answerer = Answerer(pair.small, pair.large)
        for row in rows:
            if row.name == "rsd":
                continue
            request = ask(problem.question, routing=row.routing, sampling=Sampling(seed=3))
            trace = await answerer.answer(request, row, problem)
            assert trace.error is None, row.name
            assert trace.answer_text, row.name
            assert trace.thought_end == "closed", row.name


async def test_oracle_writes_the_solvers_way_and_asks_large_only_where_small_leaves_it() -> None:
    [row] = methods_of(["oracle"], Routing(), threshold_nats=0.5, random_p=0.3)
    async with open_pair() as pair:
        answerer = Answerer(pair.small, pair.large)
        for problem in draw("calibrate", 12):
            trace = await answerer.answer(ask(problem.question, routing=row.routing), row, problem)
            thought: list[str] = []
            for step in trace.steps:
                if step.author == "small":
                    assert step_follows(problem, thought, step.text)
                else:
                    assert not step_follows(problem, thought, step.drafts[0].text)
                thought.append(step.text)


def test_a_step_follows_where_the_solver_would_write_it_next() -> None:
    problem = draw("calibrate", 6)[0]
    way = [step.text for step in solve(problem).steps]
    for place, step in enumerate(way):
        assert step_follows(problem, way[:place], f"{step}\n\n")
        assert step_follows(problem, way[:place], f"Wait, {step}\n</think>")
        assert not step_follows(problem, way[:place], f"1{step}")
        assert not step_follows(problem, way[: place + 1], step)
        assert step_follows(problem, [*way[:place], "Something else."], step), (
            "a wrong step before it is no step of the way"
        )
