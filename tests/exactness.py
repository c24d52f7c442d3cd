"""At temperature 0 the router adds nothing and loses nothing: how that is looked into, whatever the engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from glimprouter.config import Routing, Sampling, Side
from glimprouter.flow.engine import Engine, Usage
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import Pair

QUESTIONS = 200
CUT_TOKENS = 300
GREEDY = Sampling(temperature=0.0)
TIE_NATS = 0.001
"""So near to each other, the two best tokens are told apart by how a prefix was read: at once or in parts."""


def questions(count: int = QUESTIONS) -> list[str]:
    """Of the kinds the tiny pair was trained on, and of a kind it was not."""
    rng = random.Random(20260)
    drawn = []
    for number in range(count):
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


async def direct_run(engine: Engine, prompt_ids: Sequence[int]) -> list[int]:
    """The ids of one call, from the open thought to the end token or the limit."""
    async with engine.generate(prompt_ids, GREEDY, max_tokens=CUT_TOKENS, top=0, usage=Usage()) as tokens:
        return [token.id async for token in tokens if token.id >= 0]


def written(trace: Trace) -> list[int]:
    """What the model wrote. A thought that it ended without closing it ends a direct run too."""
    thought = [token for step in trace.steps for token in step.ids]
    assert trace.answer is not None
    return thought + trace.answer.ids if trace.thought_end == "closed" else thought


async def is_tie(engine: Engine, prefix: Sequence[int]) -> bool:
    async with engine.generate(prefix, GREEDY, max_tokens=1, top=2, usage=Usage()) as tokens:
        (_, best), (_, second) = (await anext(aiter(tokens))).top
    return best - second < TIE_NATS


@dataclass
class Comparison:
    """`compared` runs, of which `ties` part where two tokens are as good as each other, `others` anywhere else.

    Both name the question and the place of the first token that differs.
    """

    compared: int = 0
    ties: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    async def judge(self, engine: Engine, question: str, prompt: Sequence[int], ids: Sequence[int], same: int) -> None:
        """Two runs agree in the first `same` of `ids`, and no further."""
        parted = self.ties if await is_tie(engine, [*prompt, *ids[:same]]) else self.others
        parted.append(f"token {same} of {question!r}")


def common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two runs agree in before they part."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


async def compare_with_direct_runs(pair: Pair, side: Side, *, count: int = QUESTIONS) -> Comparison:
    """One model through the router, token for token, against one call of its engine."""
    routing = Routing(policy=side, answer_by=side, max_thinking_tokens=10_000, max_answer_tokens=10_000)
    engine: Engine = {"small": pair.small, "large": pair.large}[side]
    prompter, router = Prompter(pair.small, pair.large), pair.router()
    found = Comparison()
    for question in questions(count):
        request = ask(question, routing=routing, sampling=GREEDY)
        prompt = (await prompter.open(request))[side]
        ids = await direct_run(engine, prompt.ids)
        if len(ids) == CUT_TOKENS:
            continue  # lost in a question it does not know: the run has no end to compare
        routed = written(await router.answer(request))
        found.compared += 1
        if routed != ids:
            await found.judge(engine, question, prompt.ids, ids, common_tokens(routed, ids))
    return found
