"""How well each signal tells that a step of the small model is wrong: AUROC, with intervals over questions.

    python -m benchmarks.judge_auroc [--n 120]

Every step is drafted by the small model and graded by the large one; a draft that leaves the solver's way is written
anew by the large model, so that each step is judged by itself. The last step of a thought counts too.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import save, table
from glimprouter.config import Routing, Sampling
from glimprouter.evaluate.collecting import Collect
from glimprouter.evaluate.questions import draw
from glimprouter.evaluate.suites.tiny import Problem, step_follows
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Step, Trace
from glimprouter.pair import Pair, open_pair
from glimprouter.policies.steer import confidence
from glimprouter.stats import Bootstrap, Estimate, auroc


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


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    async with open_pair() as pair:
        questions = [
            await steps_of(pair, problem, options.seed + number)
            for number, problem in enumerate(draw("report", options.n))
        ]
    kinds = {"all steps": questions, "steps that state a value": [list(filter(states_value, q)) for q in questions]}
    rows: list[tuple[str, str, str, str]] = []
    figures: dict[str, Any] = {}
    for kind, chosen in kinds.items():
        steps, wrong = sum(map(len, chosen)), sum(seen.wrong for question in chosen for seen in question)
        figures[kind] = {"steps": steps, "wrong": wrong, "auroc": {}}
        for name, signal in SIGNALS.items():
            estimate = measured(chosen, signal)
            figures[kind]["auroc"][name] = [round(estimate.value, 4), round(estimate.low, 4), round(estimate.high, 4)]
            shown = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            rows.append((name, kind, f"{wrong} of {steps}", shown))
    print(table(("signal", "over", "wrong", "AUROC"), rows))
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
