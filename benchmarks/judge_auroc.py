"""How well each signal tells that a step of the small model is wrong: AUROC, with intervals over questions.

    python -m benchmarks.judge_auroc [--n 120]

Every step is drafted by the small model and graded by the large one; a draft that leaves the solver's way is written
anew by the large model, so that each step is judged by itself. The last step of a thought counts too. Beside it, what
the grades tell of slips as the large model was trained on: the solver's own steps, half of them with a wrong value.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.collecting import Collect
from benchmarks.report import save, table
from glimprouter.config import Routing, Sampling
from glimprouter.evaluate.suites.drawing import draw
from glimprouter.evaluate.suites.suite import Problem
from glimprouter.evaluate.suites.tiny import solve, step_follows
from glimprouter.flow.engine import Session, Usage
from glimprouter.flow.judging import Grade, Judge
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Judgement, ModelUsage, Step, Trace
from glimprouter.flow.writer import Passage, Traffic, Writer
from glimprouter.pair import Pair, open_pair
from glimprouter.policies.steer import confidence
from glimprouter.stats import Bootstrap, Estimate, auroc
from lab.corpus import slip


@dataclass(frozen=True, slots=True)
class Seen:
    """One draft: whether it went wrong, and the step as the trace has it."""

    wrong: bool
    step: Step


SIGNALS: dict[str, Callable[[Step], float]] = {
    "grade, likeliest": lambda step: -step.judgements[0].value,
    "grade, expected": lambda step: -(step.judgements[0].expected or 0.0),
    "H_init": lambda step: step.glimpse.entropy_nats if step.glimpse else 0.0,
    "1 - top probability": lambda step: 1.0 - confidence(step.glimpse) if step.glimpse else 0.0,
    "H_step": lambda step: step.drafts[0].mean_entropy_nats or 0.0,
    "PPL_step": lambda step: step.drafts[0].perplexity or 1.0,
}
"""The higher, the likelier the step is wrong."""

GRADES = {name: signal for name, signal in SIGNALS.items() if name.startswith("grade")}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    problems = draw("report", options.n)
    async with open_pair() as pair:
        drafted = [await steps_of(pair, problem, options.seed + place) for place, problem in enumerate(problems)]
        slipped = [await slips_of(pair, problem, options.seed + place) for place, problem in enumerate(problems)]
    kinds = {
        "all drafts": (drafted, SIGNALS),
        "drafts that state a value": ([list(filter(states_value, question)) for question in drafted], SIGNALS),
        "slips of training": (slipped, GRADES),
    }
    rows: list[tuple[str, str, str, str]] = []
    figures: dict[str, Any] = {}
    for kind, (questions, signals) in kinds.items():
        steps, wrong = sum(map(len, questions)), sum(seen.wrong for question in questions for seen in question)
        figures[kind] = {"steps": steps, "wrong": wrong, "auroc": {}}
        for name, signal in signals.items():
            estimate = measured(questions, signal)
            figures[kind]["auroc"][name] = [round(estimate.value, 4), round(estimate.low, 4), round(estimate.high, 4)]
            shown = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            rows.append((name, kind, f"{wrong} of {steps}", shown))
    print(table(("signal", "over", "wrong", "AUROC [95 %]"), rows))
    save("judge_auroc", {"questions": options.n, "seed": options.seed, **figures})


async def steps_of(pair: Pair, problem: Problem, seed: int) -> list[Seen]:
    """What was drafted for one question."""
    verdicts: list[bool] = []

    def is_right(trace: Trace, step: str) -> bool:
        verdicts.append(step_follows(problem, trace.whole_steps()[0], step))
        return verdicts[-1]

    request = ask(problem.question, routing=Routing(answer_by="small"), sampling=Sampling(seed=seed))
    trace = await pair.router().answer(request, policy=Collect(is_right))
    return [Seen(not right, step) for right, step in zip(verdicts, trace.steps, strict=True)]


async def slips_of(pair: Pair, problem: Problem, seed: int) -> list[Seen]:
    """The solver's steps that state a value, each right and with a slip, graded after the right steps before it."""
    rng, seen = random.Random(seed), []
    for place, step in enumerate(steps := solve(problem).steps):
        if step.value is None:
            continue
        before = "".join(f"{earlier.text}\n\n" for earlier in steps[:place])
        for text in (step.text, slip(step, rng)):
            grade = await graded(pair, problem, before, f"{text}\n\n")
            judged = Judgement(kind="score", judge="large", drafts=[], value=grade.likeliest, expected=grade.expected)
            seen.append(Seen(text != step.text, Step(index=place, author="small", text=text, judgements=[judged])))
    return seen


async def graded(pair: Pair, problem: Problem, before: str, step: str) -> Grade:
    """By the large model, of a step after what stands before it in the thought."""
    prompt = (await Prompter(pair.small, pair.large).open(ask(problem.question)))["large"]
    session = Session("grading", 0.0)
    writer = Writer(
        "large", pair.large, prompt, Sampling(), session, top=0, usage=ModelUsage(), traffic=Traffic(),
        warm_beside_calls=0,
    )  # fmt: skip
    writer.hear(Passage(before, None, ""))
    grade = await Judge("large", pair.large).grade(
        writer, Passage(step, None, ""), place=None, request="", call=Usage()
    )
    await writer.close()
    return grade


def states_value(seen: Seen) -> bool:
    """Openings and closing lines are routine: only steps that begin with a number can be wrong by a slip."""
    text = seen.step.drafts[0].text or seen.step.text
    return text.removeprefix("Wait,").strip()[:1] in "-0123456789"


def measured(questions: list[list[Seen]], signal: Callable[[Step], float]) -> Estimate:
    """Whole questions are drawn."""

    def statistic(places: Sequence[int]) -> float:
        chosen = [seen for place in places for seen in questions[place]]
        return auroc([signal(seen.step) for seen in chosen], [seen.wrong for seen in chosen])

    return Bootstrap(len(questions)).estimate(statistic)


if __name__ == "__main__":
    asyncio.run(main())
