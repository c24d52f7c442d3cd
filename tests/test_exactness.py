"""At temperature 0 the router adds nothing and loses nothing: its tokens are those of one direct run of the engine."""

import pytest

from glimprouter.config import Routing, Sampling, Side
from glimprouter.flow.request import ask
from glimprouter.pair import open_pair
from tests.exactness import QUESTIONS, compare_with_direct_runs, questions


@pytest.mark.timeout(240)
@pytest.mark.parametrize("side", ["small", "large"])
async def test_one_model_through_the_router_equals_one_direct_run(side: Side) -> None:
    async with open_pair(exact=True) as pair:
        found = await compare_with_direct_runs(pair, side)
    assert found.compared > QUESTIONS * 0.6
    assert found.others == []
    assert len(found.ties) <= 2


@pytest.mark.timeout(120)
async def test_text_and_ids_of_every_step_and_answer_agree() -> None:
    async with open_pair() as pair:
        router = pair.router()
        for number, question in enumerate(questions(60)):
            routing = Routing(threshold=0.3, max_thinking_tokens=300, max_answer_tokens=50)
            trace = await router.answer(ask(question, routing=routing, sampling=Sampling(seed=number)))
            for step in trace.steps:
                engine = pair.small if step.author == "small" else pair.large
                assert await engine.decode(step.ids) == step.text
            assert trace.answer is not None
            assert await pair.large.decode(trace.answer.ids) == trace.answer.text
