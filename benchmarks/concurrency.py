"""Tokens per second of many answers at once: through the router, and out of the same engines driven directly.

    python -m benchmarks.concurrency [--pair tiny paced] [--small X --large Y] [--at 1 4 16 64] [--rounds 5]

The pairs run on llama.cpp with as many slots as answers at once: the tiny pair, whose thoughts are short, and one that
writes a schedule of 300 tokens (`paced_gguf.py`, smaller here, for all share this machine). `--small` and `--large`
name files or URLs instead. The engines are driven directly in two ways, each with the tokens of each model that the
router's answers had, from the question as messages, as many answers at once, streamed with the same log-probabilities:

- `handed over`: every run of tokens by one model is one call with the prefix that stands before it, so that both
  models read the other's text as they must. No glimpses, no decisions, no splitting of steps, nothing read ahead.
- `unbroken`: each model writes its tokens of an answer in one stream from the question on and reads nothing of the
  other's. Every other answer begins with the large model, so that both have work. No router can reach that where
  reading costs as much as writing does, as on a CPU.

On Linux the processor time of this process and of the servers it started is compared too (`cpu_ratio`, direct over
router): it says much the same where other programs take the machine's time. The order of the three alternates from
round to round, and before each one the engines' caches are displaced.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from benchmarks.paced_gguf import Size, write_paced_pair
from benchmarks.report import key_values, median_and_range, save, table
from glimprouter.config import SIDES, Routing, Sampling, Side
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.evaluate.suites.drawing import draw
from glimprouter.flow.engine import Engine, Session, Usage
from glimprouter.flow.prompt import Prompt, Prompter
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import Pair, open_pair

GREEDY = Sampling(temperature=0.0)
ROUTING = Routing(max_thinking_tokens=500, max_answer_tokens=60)
LEAST_ANSWERS = 32
PACED_THOUGHT_TOKENS = 300
PACED_SMALL, PACED_LARGE = Size(layers=1, hidden=1024), Size(layers=4, hidden=1024)
SHORTEST_DISPLACING_TOKENS = 24
MOST_CALLS = 50
WAYS = ("router", "handed over", "unbroken")


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that one model wrote in a row, and all that stood before them."""

    side: Side
    prefix: tuple[int, ...]
    tokens: int


@dataclass(slots=True)
class Outcome:
    """What one way made of all answers of a round."""

    wall_s: float = 0.0
    cpu_s: float = math.nan
    tokens: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    requests: int = 0
    warm_requests: int = 0
    discarded_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        return sum(self.tokens.values()) / self.wall_s

    def add(self, side: Side, usage: Usage) -> None:
        self.tokens[side] += usage.generated_tokens
        self.requests += usage.requests
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens


def runs_of(trace: Trace, prompt: Prompt) -> list[Run]:
    """The calls that would have sufficed for an answer, had it been known who writes what. Both models share ids."""
    ids, runs = list(prompt.ids), []
    for author, steps in itertools.groupby(trace.steps, key=lambda step: step.author):
        written = [id_ for step in steps for id_ in step.ids]
        runs.append(Run(author, tuple(ids), len(written)))
        ids += written
    if trace.thought_end != "closed":
        ids += prompt.close_ids
    if trace.answer is not None:
        runs.append(Run(trace.answer.author, (*ids, *prompt.after_ids), len(trace.answer.ids)))
    return [run for run in runs if run.tokens]


def unbroken(runs: Sequence[Run], prompt: Prompt, *, large_first: bool) -> list[Run]:
    """The same tokens in one run per model, each from the question on."""
    whole = [
        Run(side, prompt.ids, sum(run.tokens for run in runs if run.side == side))
        for side in (reversed(SIDES) if large_first else SIDES)
    ]
    return [run for run in whole if run.tokens]


async def draw_run(engine: Engine, run: Run, session: Session, outcome: Outcome) -> None:
    """Have all tokens of a run drawn; where the model ends early it is called again from where it began."""
    left, top = run.tokens, ROUTING.glimpse_top if run.side == "small" else 0
    for _ in range(MOST_CALLS):
        usage = Usage()
        async with engine.generate(
            run.prefix, GREEDY, max_tokens=left, top=top, usage=usage, session=session
        ) as stream:
            left -= sum([token.id >= 0 async for token in stream])
        outcome.add(run.side, usage)
        if left <= 0:
            return


@dataclass
class Bench:
    """A pair, the questions of a round, and what answering them took, round by round."""

    pair: Pair
    at_once: int
    slots: int
    requests: list[Request]
    runs: list[list[Run]] = field(default_factory=list)
    unbroken: list[list[Run]] = field(default_factory=list)
    outcomes: dict[str, list[Outcome]] = field(default_factory=lambda: {way: [] for way in WAYS})

    async def run(self, rounds: int) -> None:
        """The first pass warms up and says which tokens there are; then the three ways alternate."""
        traces = await self._routed(Outcome())
        prompter = Prompter(self.pair.small, self.pair.large)
        for place, (trace, request) in enumerate(zip(traces, self.requests, strict=True)):
            prompt = (await prompter.open(request))["small"]
            runs = runs_of(trace, prompt)
            self.runs.append(runs)
            self.unbroken.append(unbroken(runs, prompt, large_first=bool(place % 2)))
        ways: dict[str, Callable[[Outcome], Awaitable[Any]]] = {
            "router": self._routed,
            "handed over": lambda outcome: self._direct(self.runs, outcome),
            "unbroken": lambda outcome: self._direct(self.unbroken, outcome),
        }
        for number in range(rounds):
            for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
                await self._displace()
                outcome = Outcome()
                begun, begun_cpu_s = time.perf_counter(), self._cpu_s()
                await ways[way](outcome)
                outcome.wall_s, outcome.cpu_s = time.perf_counter() - begun, self._cpu_s() - begun_cpu_s
                self.outcomes[way].append(outcome)

    async def _routed(self, outcome: Outcome) -> list[Trace]:
        router = self.pair.router()
        gate = asyncio.Semaphore(self.at_once)

        async def answer(request: Request) -> Trace:
            async with gate:
                return await router.answer(request)

        traces = await asyncio.gather(*map(answer, self.requests))
        for trace in traces:
            for side in SIDES:
                used = trace.usage_of(side)
                outcome.tokens[side] += used.new_tokens
                outcome.requests += used.calls
                outcome.warm_requests += used.warm_calls
                outcome.discarded_tokens += used.discarded_tokens
                outcome.prompt_tokens += used.prompt_tokens
                outcome.cached_tokens += used.cached_tokens
        return list(traces)

    async def _direct(self, answers: Sequence[Sequence[Run]], outcome: Outcome) -> None:
        engines: dict[Side, Engine] = {"small": self.pair.small, "large": self.pair.large}
        gate = asyncio.Semaphore(self.at_once)

        async def answer(request: Request, runs: Sequence[Run]) -> None:
            async with gate:
                session = Session(uuid.uuid4().hex, time.time())
                await self.pair.small.encode_prompt(list(request.messages))  # as ids they serve both models
                for run in runs:
                    await draw_run(engines[run.side], run, session, outcome)
                for engine in engines.values():
                    engine.leave(session)

        await asyncio.gather(*map(answer, self.requests, answers))

    def _cpu_s(self) -> float:
        """Processor time so far of all that takes part; NaN where that cannot be known."""
        servers = [engine for engine in (self.pair.small, self.pair.large) if isinstance(engine, LocalGguf)]
        if len(servers) < len(SIDES) or sys.platform != "linux":
            return math.nan
        return time.process_time() + sum(process_cpu_s(server.pid) for server in servers)

    async def _displace(self) -> None:
        """Whatever the way before left in caches that hold one answer per slot goes."""
        for engine in (self.pair.small, self.pair.large):
            salts = (" ".join(uuid.uuid4().hex[:SHORTEST_DISPLACING_TOKENS]) for _ in range(self.slots))
            await asyncio.gather(*[engine.prefill(await engine.encode(salt)) for salt in salts])

    def figures(self) -> dict[str, Any]:
        """Medians over rounds; ratios are those of the three ways within a round."""
        rates = {way: [one.tokens_per_s for one in outcomes] for way, outcomes in self.outcomes.items()}
        routed = self.outcomes["router"]
        answers = len(self.requests)

        def ratios(way: str) -> list[float]:
            return [ours / theirs for ours, theirs in zip(rates["router"], rates[way], strict=True)]

        return {
            "at_once": self.at_once,
            "answers": answers,
            "tokens_per_answer": statistics.median([sum(one.tokens.values()) for one in routed]) / answers,
            "large_share": statistics.median([one.tokens["large"] / sum(one.tokens.values()) for one in routed]),
            "calls_per_answer": statistics.median([one.requests for one in routed]) / answers,
            "warm_calls_per_answer": statistics.median([one.warm_requests for one in routed]) / answers,
            "discarded_per_answer": statistics.median([one.discarded_tokens for one in routed]) / answers,
            "router_tokens_per_s": statistics.median(rates["router"]),
            "handed_over_tokens_per_s": statistics.median(rates["handed over"]),
            "unbroken_tokens_per_s": statistics.median(rates["unbroken"]),
            "ratio": statistics.median(ratios("handed over")),
            "ratio_range": median_and_range(ratios("handed over")),
            "cpu_ratio": statistics.median(
                [theirs.cpu_s / ours.cpu_s for ours, theirs in zip(routed, self.outcomes["handed over"], strict=True)]
            ),
            "unbroken_ratio": statistics.median(ratios("unbroken")),
            "unbroken_ratio_range": median_and_range(ratios("unbroken")),
        }


def process_cpu_s(pid: int) -> float:
    """User and system time of a process, from /proc (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(name: str, small: str | None, large: str | None, at_once: int, rounds: int) -> dict[str, Any]:
    questions = [f"{number}. {problem.question}" for number, problem in enumerate(draw("report", 64))]
    answers = max(LEAST_ANSWERS, at_once)
    requests = [ask(question, routing=ROUTING, sampling=GREEDY) for question in questions[:answers]]
    is_ours = small is None or "://" not in small
    async with open_pair(small, large, parallel=at_once) as pair:
        facts = [await engine.facts() for engine in (pair.small, pair.large)]
        if facts[0].vocabulary != facts[1].vocabulary:
            raise SystemExit("the models number their tokens differently; this benchmark takes pairs that agree")
        bench = Bench(pair, at_once, at_once if is_ours else 0, requests)
        await bench.run(rounds)
    return {"pair": name} | bench.figures()


def pairs_of(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, small and large of each pair asked for."""
    if options.small is not None or options.large is not None:
        yield "given", options.small, options.large
        return
    for name in options.pair:
        if name == "tiny":
            yield name, None, None
        else:
            small, large, _ = write_paced_pair(
                folder, thought_tokens=PACED_THOUGHT_TOKENS, small=PACED_SMALL, large=PACED_LARGE
            )
            yield name, str(small), str(large)


SHOWN = (
    "pair", "at_once", "tokens_per_answer", "large_share", "calls_per_answer", "warm_calls_per_answer",
    "router_tokens_per_s", "handed_over_tokens_per_s", "unbroken_tokens_per_s", "ratio_range", "cpu_ratio",
    "unbroken_ratio_range",
)  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="+", choices=("tiny", "paced"), default=["tiny", "paced"])
    parser.add_argument("--small")
    parser.add_argument("--large")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 4, 16, 64], help="how many answers at once")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for pair in pairs_of(options, Path(folder)):
            for at_once in options.at:
                rows.append(await measure(*pair, at_once, options.rounds))
                print(table(SHOWN, [[rows[-1][name] for name in SHOWN]]) + "\n", flush=True)
    print(table(SHOWN, [[row[name] for name in SHOWN] for row in rows]) + "\n")
    save("concurrency", {"small": options.small, "large": options.large, "rounds": options.rounds, "at_once": rows})
    for name in dict.fromkeys(row["pair"] for row in rows):
        of_pair = [row for row in rows if row["pair"] == name]
        unbroken_ratios = {f"unbroken_ratio_{row['at_once']}": row["unbroken_ratio"] for row in of_pair}
        print(key_values(pair=name, **unbroken_ratios, **{f"ratio_{row['at_once']}": row["ratio"] for row in of_pair}))


if __name__ == "__main__":
    uvloop.run(main())
