"""What hand-overs cost: router efficiency on paced engines, in virtual time, with the published loop beside it.

    python -m benchmarks.handover [--thought-tokens 6000] [--rounds 5] [--real 0]

Efficiency = (tokens of each model x its time per token, measured alone) / wall time of the thought. The schedule is
`schedule.py`, the pace that of the paper's pair: 12.8 and 26.9 ms a token, first token after 40 and 90 ms plus reading
at 5,000 and 1,200 tokens a second, cached in blocks of 16. Rounds differ in the seed of the schedule. `--real N`
repeats one comparison on the real clock, with a thought of N tokens.

The published loop sends two blocking requests a step, a probe of one token and the step; its text is taken to be read
back as the same ids, so that its prefix is cached as well as ours.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import virtual_time
from benchmarks.paced_engine import PAPER_LARGE, PAPER_SMALL, Pace, PacedEngine
from benchmarks.report import key_values, save, table
from benchmarks.schedule import THRESHOLD_NATS, ScheduledStep, schedule
from glimprouter.config import Routing, Sampling
from glimprouter.flow.answer import Started, StepFinished
from glimprouter.flow.engine import Usage
from glimprouter.flow.glimpse import glimpse_of
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.router import Router

ROUTING = Routing(threshold=THRESHOLD_NATS, min_step_tokens=0, max_step_tokens=10**6, max_thinking_tokens=10**7)
GREEDY = Sampling(temperature=0.0)
GRID = {
    "paper": (PAPER_SMALL, PAPER_LARGE),
    "fast (3 and 12 ms a token)": (Pace(3.0, 15.0, 20_000.0), Pace(12.0, 40.0, 5_000.0)),
    "paper, queue of 300 ms": (replace(PAPER_SMALL, queue_ms=300.0), replace(PAPER_LARGE, queue_ms=300.0)),
    "fast, queue of 300 ms": (Pace(3.0, 15.0, 20_000.0, 300.0), Pace(12.0, 40.0, 5_000.0, 300.0)),
}


@dataclass(frozen=True)
class Thought:
    """One thought: its wall time, how much of it was writing, and where the rest went."""

    wall_ms: float
    writing_ms: float
    steps: int
    small_to_large_ms: list[float]
    large_to_small_ms: list[float]
    requests: int
    warm_requests: int
    warm_tokens: int
    discarded_tokens: int
    reentry_cached_share: float

    @property
    def efficiency(self) -> float:
        return self.writing_ms / self.wall_ms

    @property
    def added_ms_per_step(self) -> float:
        return (self.wall_ms - self.writing_ms) / self.steps


async def measured_token_ms(engine: PacedEngine, top: int, tokens: int = 200) -> float:
    """Alone, streamed with as many log-probabilities as the router asks for."""
    loop = asyncio.get_running_loop()
    ids = [*await engine.encode_prompt([]), *await engine.encode("<think>\n", special=True)]
    async with engine.generate(ids, GREEDY, max_tokens=tokens, top=top, usage=Usage()) as stream:
        await anext(stream)
        begun = loop.time()
        count = 0
        async for token in stream:
            if token.id < 0:
                break
            count += 1
        return (loop.time() - begun) * 1000 / count


async def routed(steps: Sequence[ScheduledStep], paces: tuple[Pace, Pace], routing: Routing) -> Thought:
    loop = asyncio.get_running_loop()
    alone = [
        await measured_token_ms(PacedEngine("alone", steps, pace), top)
        for pace, top in zip(paces, (20, 0), strict=True)
    ]
    small, large = PacedEngine("small", steps, paces[0]), PacedEngine("large", steps, paces[1])
    trace: Trace | None = None
    request = ask("Why?", routing=routing, sampling=GREEDY)
    async with aclosing(Router(small, large, clock=loop.time).stream(request)) as events:
        async for event in events:
            if isinstance(event, Started):
                trace = event.trace
            elif isinstance(event, StepFinished) and trace and trace.thought_ms:
                break
    assert trace is not None
    writing_ms = trace.thought_tokens("small") * alone[0] + trace.thought_tokens("large") * alone[1]
    waits: dict[str, list[float]] = {"small": [], "large": []}
    for before, step in zip(trace.steps, trace.steps[1:], strict=False):
        if step.handover and before.author != step.author:
            waits[step.author].append(step.wait_ms)
    usages = (trace.small, trace.large)
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    opening = 2 * len(await small.encode_prompt([]))
    return Thought(
        wall_ms=trace.thought_ms,
        writing_ms=writing_ms,
        steps=len(trace.steps),
        small_to_large_ms=waits["large"],
        large_to_small_ms=waits["small"],
        requests=sum(usage.calls for usage in usages),
        warm_requests=sum(usage.warm_calls for usage in usages),
        warm_tokens=sum(usage.warm_tokens for usage in usages),
        discarded_tokens=sum(usage.discarded_tokens for usage in usages),
        reentry_cached_share=sum(usage.cached_tokens for usage in usages) / max(1, prompt_tokens - opening),
    )


async def published(steps: Sequence[ScheduledStep], paces: tuple[Pace, Pace]) -> Thought:
    """Two blocking requests per step on the same engines."""
    loop = asyncio.get_running_loop()
    small, large = PacedEngine("small", steps, paces[0]), PacedEngine("large", steps, paces[1])
    prompts = await Prompter(small, large).open(ask("Why?"))
    begun = loop.time()
    ids, requests, written = list(prompts["small"].ids), 0, {"small": 0, "large": 0}
    count, closed = 0, False
    while not closed:
        async with small.generate(ids, GREEDY, max_tokens=1, top=20, usage=Usage()) as stream:
            pivot = glimpse_of(await anext(aiter(stream)), 0).entropy_nats > THRESHOLD_NATS
        who, engine = ("large", large) if pivot else ("small", small)
        async with engine.generate(ids, GREEDY, max_tokens=10**6, top=0, usage=Usage()) as stream:
            async for token in stream:
                ids.append(token.id)
                written[who] += 1
                closed = token.text == "</think>"
                if closed or token.text.endswith("\n\n"):
                    break
        requests += 2
        count += 1
    wall_ms = (loop.time() - begun) * 1000
    writing_ms = written["small"] * paces[0].token_ms + written["large"] * paces[1].token_ms
    return Thought(wall_ms, writing_ms, count, [], [], requests, 0, 0, 0, 0.0)


Run = Callable[[Any], Any]


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def efficiencies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each pace of the grid: ours and the loop's, medians over seeds."""
    rows = []
    for name, paces in GRID.items():
        ours, loops = [], []
        for seed in range(options.rounds):
            steps = schedule(options.thought_tokens, seed=seed)
            ours.append(virtual_time.run(routed(steps, paces, ROUTING)))
            loops.append(virtual_time.run(published(steps, paces)))
        rows.append(
            {
                "pace": name,
                "efficiency": median([one.efficiency for one in ours]),
                "loop_efficiency": median([one.efficiency for one in loops]),
                "wall_ratio": median([a.wall_ms / b.wall_ms for a, b in zip(ours, loops, strict=True)]),
                "to_large_ms": median([wait for one in ours for wait in one.small_to_large_ms]),
                "to_small_ms": median([wait for one in ours for wait in one.large_to_small_ms]),
                "requests_per_step": median([(one.requests - 1) / one.steps for one in ours]),
                "warm_per_step": median([one.warm_requests / one.steps for one in ours]),
                "discarded_per_step": median([one.discarded_tokens / one.steps for one in ours]),
                "cached_share": median([one.reentry_cached_share for one in ours]),
            }
        )
    return rows


SWITCHES = {
    "both on": {},
    "overlap off": {"overlap": False},
    "warming off": {"warm": False},
    "warming after steps only": {"warm_every_tokens": 0},
    "both off": {"overlap": False, "warm": False},
}


def switched(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Overlap and warming on and off, at thoughts of 1,000 tokens and at the length asked for."""
    rows = []
    for tokens in (1_000, options.thought_tokens):
        for name, switches in SWITCHES.items():
            routing = replace(ROUTING, **switches)  # type: ignore[arg-type]
            runs = [
                virtual_time.run(routed(schedule(tokens, seed=seed), GRID["paper"], routing))
                for seed in range(options.rounds)
            ]
            rows.append(
                {
                    "thought_tokens": tokens,
                    "switches": name,
                    "efficiency": median([one.efficiency for one in runs]),
                    "to_large_ms": median([wait for one in runs for wait in one.small_to_large_ms]),
                    "to_small_ms": median([wait for one in runs for wait in one.large_to_small_ms]),
                    "discarded_per_step": median([one.discarded_tokens / one.steps for one in runs]),
                    "warm_tokens_per_step": median([one.warm_tokens / one.steps for one in runs]),
                }
            )
    return rows


def grown(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Latency that is no writing, per step, as thoughts get longer."""
    rows = []
    for tokens in (1_000, 8_000, 32_000):
        ours = virtual_time.run(routed(schedule(tokens), GRID["paper"], ROUTING))
        loop = virtual_time.run(published(schedule(tokens), GRID["paper"]))
        rows.append(
            {
                "thought_tokens": tokens,
                "added_ms_per_step": ours.added_ms_per_step,
                "loop_added_ms_per_step": loop.added_ms_per_step,
            }
        )
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    return table(list(rows[0]), [list(row.values()) for row in rows]) + "\n"


def real(tokens: int) -> dict[str, float]:
    """The same on the real clock."""
    steps = schedule(tokens)

    def timed(work: Awaitable[Thought]) -> Thought:
        return asyncio.run(work)  # type: ignore[arg-type]

    ours, loop = timed(routed(steps, GRID["paper"], ROUTING)), timed(published(steps, GRID["paper"]))
    virtual = virtual_time.run(routed(steps, GRID["paper"], ROUTING))
    return {
        "thought_tokens": tokens,
        "efficiency": ours.efficiency,
        "efficiency_in_virtual_time": virtual.efficiency,
        "loop_efficiency": loop.efficiency,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thought-tokens", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--real", type=int, default=0)
    options = parser.parse_args()
    figures: dict[str, Any] = {"grid": efficiencies(options), "switches": switched(options), "growth": grown(options)}
    if options.real:
        figures["real"] = [real(options.real)]
    for rows in figures.values():
        print(shown(rows))
    save("handover", {"thought_tokens": options.thought_tokens, "rounds": options.rounds} | figures)
    paper = figures["grid"][0]
    print(key_values(efficiency_paced=paper["efficiency"], loop_efficiency_paced=paper["loop_efficiency"]))


if __name__ == "__main__":
    main()
