"""What hand-overs cost: router efficiency on paced engines, in virtual time, with the published loop beside it.

    python -m benchmarks.handover [--thought-tokens 6000] [--rounds 5] [--real 0]

Efficiency = (tokens of each model x its time per token, measured alone) / wall time of the thought. The schedule is
`schedule.py`, the pace that of the paper's pair: 12.8 and 26.9 ms a token, first token after 40 and 90 ms plus reading
at 5,000 and 1,200 tokens a second, cached in blocks of 16, each model alone on its device (`engines/paced.py`). The
delays are the scripted engine's, the requests are the router's own. Rounds differ in the seed of the schedule.
`--real N` repeats one comparison on the real clock, with a thought of N tokens (0: not at all).

The published loop sends two blocking requests a step, a probe of one token and the step; its text is taken to be read
back as the same ids, so that its prefix is cached as well as ours.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import virtual_time
from benchmarks.report import key_values, save, table
from benchmarks.schedule import THRESHOLD_NATS, ScheduledStep, lines_of, schedule
from glimprouter.config import SIDES, Routing, Sampling, Side
from glimprouter.engines.scripted import Pace, ScriptedEngine
from glimprouter.flow.answer import Started, StepFinished
from glimprouter.flow.engine import Usage
from glimprouter.flow.glimpse import glimpse_of
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.router import Router

ROUTING = Routing(threshold=THRESHOLD_NATS, min_step_tokens=0, max_step_tokens=10**6, max_thinking_tokens=10**7)
GREEDY = Sampling(temperature=0.0)
CONTEXT_TOKENS = 10**6
PAPER_SMALL = Pace(first_token_ms=40.0, token_ms=12.8, prefill_token_ms=1_000 / 5_000, block_tokens=16)
PAPER_LARGE = Pace(first_token_ms=90.0, token_ms=26.9, prefill_token_ms=1_000 / 1_200, block_tokens=16)
FAST_SMALL = Pace(first_token_ms=15.0, token_ms=3.0, prefill_token_ms=1_000 / 20_000, block_tokens=16)
FAST_LARGE = Pace(first_token_ms=40.0, token_ms=12.0, prefill_token_ms=1_000 / 5_000, block_tokens=16)
QUEUE_MS = 300.0
Paces = tuple[Pace, Pace]
GRID: dict[str, Paces] = {
    "paper (12.8 and 26.9 ms a token)": (PAPER_SMALL, PAPER_LARGE),
    "fast (3 and 12 ms a token)": (FAST_SMALL, FAST_LARGE),
    "paper, queue of 300 ms": (replace(PAPER_SMALL, queue_ms=QUEUE_MS), replace(PAPER_LARGE, queue_ms=QUEUE_MS)),
    "fast, queue of 300 ms": (replace(FAST_SMALL, queue_ms=QUEUE_MS), replace(FAST_LARGE, queue_ms=QUEUE_MS)),
}
PAPER = next(iter(GRID.values()))


@dataclass(frozen=True)
class Thought:
    """One thought: its wall time, how much of it was writing, and where the rest went.

    For each pair of authors in a row `waits_ms` lists how long the second one's first token took, and `lost_ms` how
    much longer its step took than its writing.
    """

    wall_ms: float
    writing_ms: float
    steps: int
    requests: int
    waits_ms: dict[tuple[Side, Side], list[float]] = field(default_factory=dict)
    lost_ms: dict[tuple[Side, Side], list[float]] = field(default_factory=dict)
    warm_requests: int = 0
    warm_tokens: int = 0
    discarded_tokens: int = 0
    reentry_cached_share: float = 0.0

    @property
    def efficiency(self) -> float:
        return self.writing_ms / self.wall_ms

    @property
    def added_ms_per_step(self) -> float:
        return (self.wall_ms - self.writing_ms) / self.steps


def engines_of(steps: Sequence[ScheduledStep], paces: Paces) -> tuple[ScriptedEngine, ScriptedEngine]:
    """Both models, each alone on its device, on whatever clock the loop has."""
    clock = asyncio.get_running_loop().time
    small, large = (
        ScriptedEngine(
            lines_of(steps), name=side, pace=pace, clock=clock, context_tokens=CONTEXT_TOKENS, keep_calls=False
        )
        for side, pace in zip(SIDES, paces, strict=True)
    )
    return small, large


async def measured_token_ms(engine: ScriptedEngine, top: int, tokens: int = 200) -> float:
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


async def routed(steps: Sequence[ScheduledStep], paces: Paces, routing: Routing) -> Thought:
    """The router's thought, on engines that have seen nothing yet."""
    loop = asyncio.get_running_loop()
    alone = [
        await measured_token_ms(engine, top) for engine, top in zip(engines_of(steps, paces), (20, 0), strict=True)
    ]
    small, large = engines_of(steps, paces)
    trace: Trace | None = None
    request = ask("Why?", routing=routing, sampling=GREEDY)
    async with aclosing(Router(small, large, clock=loop.time).stream(request)) as events:
        async for event in events:
            if isinstance(event, Started):
                trace = event.trace
            elif isinstance(event, StepFinished) and trace and trace.thought_ms:
                break
    assert trace is not None
    waits: dict[tuple[Side, Side], list[float]] = {pair: [] for pair in itertools.product(SIDES, SIDES)}
    lost: dict[tuple[Side, Side], list[float]] = {pair: [] for pair in waits}
    token_ms = dict(zip(SIDES, alone, strict=True))
    for before, step in itertools.pairwise(trace.steps):
        waits[before.author, step.author].append(step.wait_ms)
        lost[before.author, step.author].append(step.wall_ms - step.tokens * token_ms[step.author])
    usages = (trace.small, trace.large)
    opening = 2 * len(await small.encode_prompt(list(request.messages)))
    return Thought(
        wall_ms=trace.thought_ms,
        writing_ms=sum(trace.thought_tokens(side) * token_ms[side] for side in SIDES),
        steps=len(trace.steps),
        requests=sum(usage.calls for usage in usages),
        waits_ms=waits,
        lost_ms=lost,
        warm_requests=sum(usage.warm_calls for usage in usages),
        warm_tokens=sum(usage.warm_tokens for usage in usages),
        discarded_tokens=sum(usage.discarded_tokens for usage in usages),
        reentry_cached_share=sum(usage.cached_tokens for usage in usages)
        / max(1, sum(usage.prompt_tokens for usage in usages) - opening),
    )


async def published(steps: Sequence[ScheduledStep], paces: Paces) -> Thought:
    """Two blocking requests per step on the same engines."""
    loop = asyncio.get_running_loop()
    small, large = engines_of(steps, paces)
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
    return Thought(wall_ms, writing_ms, count, requests)


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def median_wait(thoughts: Sequence[Thought], before: Side, after: Side) -> float:
    """Time to first token (ms) where `after` takes over from `before`."""
    return median([wait for thought in thoughts for wait in thought.waits_ms[before, after]])


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
                "to_large_ms": median_wait(ours, "small", "large"),
                "to_small_ms": median_wait(ours, "large", "small"),
                "requests_per_step": median([(one.requests - 1) / one.steps for one in ours]),
                "warm_per_step": median([one.warm_requests / one.steps for one in ours]),
                "discarded_per_step": median([one.discarded_tokens / one.steps for one in ours]),
                "cached_share": median([one.reentry_cached_share for one in ours]),
            }
        )
    return rows


def rests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the time that is no writing is made of, in shares of the wall time, at each pace."""
    rows = []
    for name, paces in GRID.items():
        thoughts = [
            virtual_time.run(routed(schedule(options.thought_tokens, seed=seed), paces, ROUTING))
            for seed in range(options.rounds)
        ]
        shares = [rest_of(thought, paces) for thought in thoughts]
        rows.append({"pace": name} | {key: median([share[key] for share in shares]) for key in shares[0]})
    return rows


def rest_of(thought: Thought, paces: Paces) -> dict[str, float]:
    """Shares of the wall time. A first token's own writing is none of them; they add up to 1 - efficiency."""
    small, large = paces
    to_large, to_small = thought.lost_ms["small", "large"], thought.lost_ms["large", "small"]
    glimpses_ms = len(to_large) * small.token_ms
    large_first_ms = len(to_large) * (large.queue_ms + large.first_token_ms - large.token_ms)
    small_first_ms = len(to_small) * (small.queue_ms + small.first_token_ms - small.token_ms)
    parts_ms = {
        "glimpse_thrown_away": glimpses_ms,
        "large_first_token": large_first_ms,
        "large_reading": sum(to_large) - glimpses_ms - large_first_ms,
        "small_first_token": small_first_ms,
        "small_reading": sum(to_small) - small_first_ms,
        "glimpse_while_large_stays": sum(thought.lost_ms["large", "large"]),
    }
    parts_ms["opening"] = thought.wall_ms - thought.writing_ms - sum(parts_ms.values())
    return {name: part_ms / thought.wall_ms for name, part_ms in parts_ms.items()}


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
                virtual_time.run(routed(schedule(tokens, seed=seed), PAPER, routing)) for seed in range(options.rounds)
            ]
            rows.append(
                {
                    "thought_tokens": tokens,
                    "switches": name,
                    "efficiency": median([one.efficiency for one in runs]),
                    "to_large_ms": median_wait(runs, "small", "large"),
                    "to_small_ms": median_wait(runs, "large", "small"),
                    "discarded_per_step": median([one.discarded_tokens / one.steps for one in runs]),
                    "warm_tokens_per_step": median([one.warm_tokens / one.steps for one in runs]),
                }
            )
    return rows


def grown(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Latency that is no writing, per step, as thoughts get longer."""
    rows = []
    for tokens in (1_000, 8_000, 32_000):
        ours = virtual_time.run(routed(schedule(tokens), PAPER, ROUTING))
        loop = virtual_time.run(published(schedule(tokens), PAPER))
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

    def timed(work: Coroutine[Any, Any, Thought]) -> Thought:
        return asyncio.run(work)

    ours, loop = timed(routed(steps, PAPER, ROUTING)), timed(published(steps, PAPER))
    virtual = virtual_time.run(routed(steps, PAPER, ROUTING))
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
    parser.add_argument("--real", type=int, default=600)
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "grid": efficiencies(options),
        "rest": rests(options),
        "switches": switched(options),
        "growth": grown(options),
    }
    if options.real:
        figures["real"] = [real(options.real)]
    for rows in figures.values():
        print(shown(rows))
    save("handover", {"thought_tokens": options.thought_tokens, "rounds": options.rounds} | figures)
    paper = figures["grid"][0]
    print(
        key_values(
            wall_ratio=paper["wall_ratio"],
            to_large_ms=paper["to_large_ms"],
            to_small_ms=paper["to_small_ms"],
            requests_per_step=paper["requests_per_step"],
            cached_share=paper["cached_share"],
            efficiency_paced=paper["efficiency"],
            loop_efficiency_paced=paper["loop_efficiency"],
        )
    )


if __name__ == "__main__":
    main()
