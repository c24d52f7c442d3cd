"""At temperature 0 the router adds nothing and loses nothing: its tokens are those of one direct run of the engine."""

import random
from collections.abc import Sequence

import pytest

from glimprouter.config import Routing, Sampling, Side
from glimprouter.flow.engine import Engine, Usage
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import open_pair

QUESTIONS = 200
CUT_TOKENS = 300
GREEDY = Sampling(temperature=0.0)


def questions() -> list[str]:
    """Of the kinds the tiny pair was trained on, and of a kind it was not."""
    rng = random.Random(20260)
    drawn = []
    for number in range(QUESTIONS):
        a, b, c = (rng.randint(1, 99) for _ in range(3))
        drawn.append(
            (
                f"Solve the following multiplication: {a} * {b}. Give only the result as your final answer.",
                f"State the final answer to the following arithmetic problem: {a} + {b} - {c} =",
                f"Solve for x: {a % 12 + 1}*x + {b % 12} = {c}",
                f"Wie viele Äpfel sind {a} plus {b}? 🍎",
            )[number % 4]
        )
    return drawn


async def direct_run(engine: Engine, prompt_ids: tuple[int, ...]) -> list[int]:
    """The ids of one call, from the open thought to the end token or the limit."""
    async with engine.generate(prompt_ids, GREEDY, max_tokens=CUT_TOKENS, top=0, usage=Usage()) as tokens:
        return [token.id async for token in tokens if token.id >= 0]


def written(trace: Trace) -> list[int]:
    """What the model wrote. A thought that it ended without closing it ends a direct run too."""
    thought = [token for step in trace.steps for token in step.ids]
    assert trace.answer is not None
    return thought + trace.answer.ids if trace.thought_end == "closed" else thought


async def is_tie(engine: Engine, prefix: Sequence[int]) -> bool:
    """Whether the two best next tokens lie within 0.001: reading a prefix at once or in parts then tips the scales."""
    async with engine.generate(prefix, GREEDY, max_tokens=1, top=2, usage=Usage()) as tokens:
        (_, best), (_, second) = (await anext(aiter(tokens))).top
    return best - second < 0.001


@pytest.mark.timeout(240)
@pytest.mark.parametrize("side", ["small", "large"])
async def test_one_model_through_the_router_equals_one_direct_run(side: Side) -> None:
    routing = Routing(policy=side, answer_by=side, max_thinking_tokens=10_000, max_answer_tokens=10_000)
    async with open_pair(exact=True) as pair:
        engine: Engine = {"small": pair.small, "large": pair.large}[side]
        prompter, router = Prompter(pair.small, pair.large), pair.router()
        compared = ties = 0
        for question in questions():
            request = ask(question, routing=routing, sampling=GREEDY)
            prompt = (await prompter.open(request))[side]
            ids = await direct_run(engine, prompt.ids)
            if len(ids) == CUT_TOKENS:
                continue  # lost in a question it does not know: the run has no end to compare
            routed = written(await router.answer(request))
            compared += 1
            if routed != ids:
                same = next(place for place, (a, b) in enumerate(zip(routed, ids, strict=False)) if a != b)
                assert await is_tie(engine, [*prompt.ids, *ids[:same]])
                ties += 1
        assert compared > QUESTIONS * 0.6
        assert ties <= 2


@pytest.mark.timeout(120)
async def test_text_and_ids_of_every_step_and_answer_agree() -> None:
    async with open_pair() as pair:
        router = pair.router()
        for number, question in enumerate(questions()[:60]):
            routing = Routing(threshold=0.3, max_thinking_tokens=300, max_answer_tokens=50)
            trace = await router.answer(ask(question, routing=routing, sampling=Sampling(seed=number)))
            for step in trace.steps:
                engine = pair.small if step.author == "small" else pair.large
                assert await engine.decode(step.ids) == step.text
            assert trace.answer is not None
            assert await pair.large.decode(trace.answer.ids) == trace.answer.text
