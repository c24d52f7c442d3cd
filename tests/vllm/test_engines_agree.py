"""vLLM, transformers and llama.cpp on the same weights: exact by themselves, alike with each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from glimprouter.config import Routing, Side
from glimprouter.flow.engine import Engine
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import Pair, open_pair
from tests.exactness import GREEDY, QUESTIONS, Comparison, common_tokens, compare_with_direct_runs, questions

THRESHOLD_NATS = 0.5142
GLIMPSED = 100


def check(found: Comparison) -> None:
    print(found)  # noqa: T201
    assert found.compared > QUESTIONS * 0.6
    assert found.others == []
    assert len(found.ties) <= 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", ["small", "large"])
async def test_one_model_through_the_router_equals_one_direct_run_on_vllm(vllm_pair: Pair, side: Side) -> None:
    check(await compare_with_direct_runs(vllm_pair, side))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", ["small", "large"])
async def test_one_model_through_the_router_equals_one_direct_run_on_transformers(hf_pair: Pair, side: Side) -> None:
    check(await compare_with_direct_runs(hf_pair, side))


@dataclass
class Agreement(Comparison):
    """Also `decisions`: answers that part where the two entropies of a step fall on different sides of the threshold.

    `steps` were written alike by the same model before.
    """

    steps: int = 0
    decisions: list[str] = field(default_factory=list)


async def compare(found: Agreement, reference: Pair, one: Trace, other: Trace, request: Request) -> None:
    """Go through two answers step by step, up to where they part."""
    found.compared += 1
    question = request.messages[-1]["content"]
    prompts = await Prompter(reference.small, reference.large).open(request)
    engines: dict[Side, Engine] = {"small": reference.small, "large": reference.large}
    before: list[int] = []
    for a, b in zip(one.steps, other.steps, strict=False):
        if a.author != b.author:
            assert a.glimpse is not None
            assert b.glimpse is not None
            entropies = a.glimpse.entropy_nats, b.glimpse.entropy_nats
            assert min(entropies) <= THRESHOLD_NATS < max(entropies)
            found.decisions.append(f"step {a.index} of {question!r}: {entropies[0]:.6f} and {entropies[1]:.6f} nats")
            return
        if a.ids != b.ids:
            ids, same = [*before, *a.ids], len(before) + common_tokens(a.ids, b.ids)
            await found.judge(engines[a.author], question, prompts[a.author].ids, ids, same)
            return
        before += a.ids
        found.steps += 1
    assert one.answer is not None
    assert other.answer is not None
    if one.answer_text != other.answer_text:
        ids, same = one.answer.ids, common_tokens(one.answer.ids, other.answer.ids)
        await found.judge(engines["large"], question, [*prompts["large"].ids, *before], ids, same)


@pytest.mark.timeout(600)
async def test_glimpse_writes_the_same_text_on_all_three_where_entropies_fall_on_the_same_side(
    vllm_pair: Pair, hf_pair: Pair
) -> None:
    routing = Routing(threshold=THRESHOLD_NATS, max_thinking_tokens=400, max_answer_tokens=60)
    found = {"vllm": Agreement(), "transformers": Agreement()}
    async with open_pair(exact=True) as local:
        for question in questions(GLIMPSED):
            request = ask(question, routing=routing, sampling=GREEDY)
            reference = await local.router().answer(request)
            for name, pair in (("vllm", vllm_pair), ("transformers", hf_pair)):
                await compare(found[name], local, reference, await pair.router().answer(request), request)
    print(found)  # noqa: T201
    for one in found.values():
        assert one.compared == GLIMPSED
        assert one.others == []
        assert len(one.ties) <= 3
        assert len(one.decisions) <= 3
