"""Fits what methods must know of a pair beforehand, on questions that are never reported: models/fitted.toml.

    python -m benchmarks.fit_methods [--n 240] [--share 0.3] [--write src/glimprouter/models/fitted.toml]

Small thinks alone, large grades every step: from its confidences STEER's mixture; from its entropies, perplexities and
the grades the thresholds at which `--share` of steps, or of questions, go to the large model. Large thinks alone: from
its margins RelayGen's cues. For the pair that ships; needs reasoning-gym.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.collecting import Collect
from glimprouter.config import Routing, Sampling
from glimprouter.evaluate.cues import profile
from glimprouter.evaluate.suites.drawing import draw
from glimprouter.flow.engine import Token, Usage
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.mixtures import fit_two_normals
from glimprouter.pair import TINY_LARGE, TINY_SMALL, Pair, open_pair
from glimprouter.policies.steer import confidence
from glimprouter.stats import quantile
from glimprouter.strategies.doubt import doubt_nats
from glimprouter.strategies.whole_question import WholeQuestion

LEAST_TIMES, LEAST_GAIN = 10, 0.0
"""Of a cue: in how many sentences it must have been seen, and by how much its margin must be above the mean."""

HEADER = "# Options of policies and strategies that are fitted to a pair beforehand. Made by: python -m benchmarks."


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=240)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    questions = [problem.question for problem in draw("calibrate", options.n)]
    async with open_pair() as pair:
        requests = [
            ask(question, routing=Routing(answer_by="small"), sampling=Sampling(seed=options.seed + number))
            for number, question in enumerate(questions)
        ]
        traces = [await pair.router().answer(request, policy=Collect()) for request in requests]
        thoughts = [await large_thought(pair, question, options.seed + n) for n, question in enumerate(questions)]
    fitted = fit(traces, thoughts, options.share)
    text = toml(fitted, f"{HEADER}fit_methods --n {options.n} --share {options.share:g}\n")
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


async def large_thought(pair: Pair, question: str, seed: int) -> list[Token]:
    """The thought of the large model alone, with the log-probabilities of its tokens."""
    prompt = (await Prompter(pair.small, pair.large).open(ask(question)))["large"]
    tokens: list[Token] = []
    async with pair.large.generate(
        prompt.ids, Sampling(seed=seed), max_tokens=prompt.room_tokens, top=5, usage=Usage()
    ) as stream:
        async for token in stream:
            if prompt.format.close_tag in token.text:
                break
            if token.id >= 0:
                tokens.append(token)
    return tokens


def fit(traces: list[Trace], thoughts: list[list[Token]], share: float) -> dict[str, dict[str, Any]]:
    """Options by method. Thresholds are upper quantiles of a signal, of the grade a lower one."""
    steps = [step for trace in traces for step in trace.steps]
    glimpses = [step.glimpse for step in steps if step.glimpse is not None]
    drafts = [step.drafts[0] for step in steps]
    grades = [step.judgements[0].expected or 0.0 for step in steps]
    mixture = fit_two_normals([confidence(glimpse) for glimpse in glimpses])

    def above(values: list[float]) -> float:
        return round(quantile(sorted(values), 1.0 - share), 4)

    return {
        "steer": {
            "low_mean": round(mixture.low.mean, 6),
            "low_sd": round(mixture.low.sd, 6),
            "high_mean": round(mixture.high.mean, 6),
            "high_sd": round(mixture.high.sd, 6),
            "low_weight": round(mixture.low_weight, 4),
        },
        "relaygen": {
            "cues": [cue.word for cue in profile(thoughts, least_times=LEAST_TIMES, least_gain=LEAST_GAIN)],
        },
        "step-entropy": {"threshold": above([d.mean_entropy_nats for d in drafts if d.mean_entropy_nats is not None])},
        "step-perplexity": {"threshold": above([d.perplexity for d in drafts if d.perplexity is not None])},
        "specreason-expected": {"accept": round(quantile(sorted(grades), share), 4)},
        "cascade": {"threshold": above([doubt_nats(trace, "token_entropy") for trace in traces])},
        "cascade-h-init": {"threshold": above([doubt_nats(trace, "h_init") for trace in traces])},
        "whole-question": {"threshold": above([doubt_nats(looked_at(trace), "token_entropy") for trace in traces])},
    }


def looked_at(trace: Trace) -> Trace:
    """As much of a thought as whole-question routing looks at, cut at whole steps."""
    look_tokens = WholeQuestion(threshold=0.0).look_tokens
    kept, tokens = [], 0
    for step in trace.steps:
        kept.append(step)
        tokens += step.tokens
        if tokens >= look_tokens:
            break
    return msgspec.structs.replace(trace, steps=kept)


def toml(fitted: dict[str, dict[str, Any]], header: str) -> str:
    """Numbers, strings and lists of them are written as JSON writes them, which TOML reads alike."""
    lines = [header, "[[pair]]", f"small = {json.dumps(TINY_SMALL)}", f"large = {json.dumps(TINY_LARGE)}", ""]
    for method, options in fitted.items():
        lines += [f"[pair.methods.{method}]", *(f"{key} = {json.dumps(value)}" for key, value in options.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    asyncio.run(main())
