"""What faults do to answers: how many end, and whether their text is that of a faultless run.

The tiny pair in exact mode at temperature 0, each model on llama.cpp's server. `random`: three addresses per model,
each a proxy that spoils one request in ten (hang-up before or within the reply, silence, 503). `killed`: two servers
per model, one of which dies by kill -9 in the middle of a step. Every answer is compared, token for token, with the
same question's on engines without faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from importlib.resources import as_file, files

from benchmarks.faulty_proxy import FaultyProxy, at_random, faulty_proxy
from benchmarks.report import key_values, save, table
from glimprouter.config import SIDES, Sampling, Side
from glimprouter.engines.http import HttpEngine, Timeouts
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.pool import Pool
from glimprouter.flow.answer import Finished, StepStarted, Text
from glimprouter.flow.engine import Engine, Usage
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import Request, ask
from glimprouter.flow.trace import Trace
from glimprouter.router import AnswerFailed, Router

GREEDY = Sampling(temperature=0.0)
TIE_NATS = 1e-3
"""Two tokens, or an entropy and its threshold, that lie within this are a tie: batches round differently."""

THRESHOLD_NATS = 0.9
QUICK = Timeouts(connect_s=2.0, first_token_s=3.0, between_tokens_s=1.5)
"""So that silence costs little here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer ended: `same` as the faultless one, a `tie` at the first difference, `different`, or `failed`."""

    how: str
    calls: int = 0


def questions(count: int) -> list[Request]:
    """Sums, products and equations, as the tiny pair was trained on."""
    rng = random.Random(31)
    requests = []
    for number in range(count):
        a, b, c = (rng.randint(2, 99) for _ in range(3))
        text = (
            f"Solve for x: {a % 12 + 1}*x + {b % 12} = {c}",
            f"State the final answer to the following arithmetic problem: {a} + {b} - {c} =",
            f"Solve the following multiplication: {a} * {b}. Give only the result as your final answer.",
        )[number % 3]
        requests.append(ask(text, sampling=GREEDY))
    return requests


async def serve(stack: AsyncExitStack, side: Side, *, parallel: int = 1) -> LocalGguf:
    """A server of its own for one model of the tiny pair."""
    path = stack.enter_context(as_file(files("glimprouter.models") / f"tiny-{side}.gguf"))
    server = await LocalGguf.start(path, side=side, parallel=parallel, exact=True)
    stack.push_async_callback(server.close)
    return server


class Judge:
    """Compares answers with those of engines without faults."""

    def __init__(self, engines: dict[Side, Engine]) -> None:
        self._engines = engines
        self._router = Router(engines["small"], engines["large"], threshold_nats=THRESHOLD_NATS)
        self._prompter = Prompter(engines["small"], engines["large"])

    async def faultless(self, request: Request) -> Trace:
        return await self._router.answer(request)

    async def outcome(self, request: Request, wanted: Trace, got: Trace) -> Outcome:
        calls = got.small.calls + got.large.calls
        ours, theirs = _written(got), _written(wanted)
        place = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0][:2] != pair[1][:2]), None)
        if place is None:
            return Outcome("same" if len(ours) == len(theirs) else "different", calls)
        (who, _, entropy), (other, _, _) = ours[place], theirs[place]
        if who != other:
            return Outcome("tie" if abs((entropy or 0.0) - THRESHOLD_NATS) < TIE_NATS else "different", calls)
        tied = await self._is_tie(request, who, [id_ for _, id_, _ in ours[:place]])
        return Outcome("tie" if tied else "different", calls)

    async def _is_tie(self, request: Request, who: Side, written: Sequence[int]) -> bool:
        """Whether the two best tokens after what was written lie close together. One vocabulary serves the pair."""
        prompt = (await self._prompter.open(request))[who]
        prefix = [*prompt.ids, *written]
        async with self._engines[who].generate(prefix, GREEDY, max_tokens=1, top=2, usage=Usage()) as tokens:
            (_, best), (_, second) = (await anext(aiter(tokens))).top[:2]
        return best - second < TIE_NATS


def _written(trace: Trace) -> list[tuple[Side, int, float | None]]:
    """Every token with its author and its step's entropy."""
    tokens = [
        (step.author, id_, step.glimpse.entropy_nats if step.glimpse else None)
        for step in trace.steps
        for id_ in step.ids
    ]
    answer = trace.answer
    return tokens + [(trace.answer_by, id_, None) for id_ in (answer.ids if answer is not None else [])]


async def random_faults(count: int, share: float, *, at_once: int, seed: int) -> tuple[Counter[str], list[FaultyProxy]]:
    """Answers over three spoilt addresses per model."""
    requests = questions(count)
    async with AsyncExitStack() as stack:
        pools: dict[Side, Pool] = {}
        plain: dict[Side, Engine] = {}
        proxies: list[FaultyProxy] = []
        chance = random.Random(seed)
        for side in SIDES:
            plain[side] = server = await serve(stack, side, parallel=at_once)
            mine = [await stack.enter_async_context(faulty_proxy(server.url)) for _ in range(3)]
            pools[side] = Pool([HttpEngine(one.url, key=server.key, timeouts=QUICK) for one in mine])
            stack.push_async_callback(pools[side].close)
            proxies += mine
        judge = Judge(plain)
        wanted = [await judge.faultless(request) for request in requests]
        router = Router(pools["small"], pools["large"], threshold_nats=THRESHOLD_NATS)
        await router.answer(requests[0])
        for proxy in proxies:
            proxy.plan, proxy.requests = at_random(share, chance), 0
        gate = asyncio.Semaphore(at_once)

        async def one(request: Request, faultless: Trace) -> Outcome:
            async with gate:
                try:
                    got = await router.answer(request)
                except AnswerFailed:
                    return Outcome("failed")
            return await judge.outcome(request, faultless, got)

        outcomes = await asyncio.gather(*map(one, requests, wanted))
    return Counter(outcome.how for outcome in outcomes), proxies


async def killed(count: int) -> Counter[str]:
    """Answers in each of which the server that has just begun a step is killed within it; a new pair for each."""
    hows: Counter[str] = Counter()
    requests = questions(count)
    async with AsyncExitStack() as plain:
        judge = Judge({side: await serve(plain, side) for side in SIDES})
        for number, request in enumerate(requests):
            wanted = await judge.faultless(request)
            victim: Side = SIDES[number % 2]
            got = await killed_answer(request, victim, after_steps=number % 4)
            hows[("failed" if got is None else (await judge.outcome(request, wanted, got)).how)] += 1
            hows["resumed"] += got is not None
    return hows


async def killed_answer(request: Request, victim: Side, *, after_steps: int) -> Trace | None:
    """The trace of an answer whose `victim` dies at its first text after so many steps; None where it failed."""
    async with AsyncExitStack() as stack:
        servers = {side: [await serve(stack, side) for _ in range(2)] for side in SIDES}
        for side in SIDES:
            for place, server in enumerate(servers[side]):
                server.name = f"{side}-{place}"
        pools = {side: Pool(servers[side]) for side in SIDES}
        router = Router(pools["small"], pools["large"], threshold_nats=THRESHOLD_NATS)
        steps, done = 0, False
        async with aclosing(router.stream(request)) as events:
            async for event in events:
                steps += isinstance(event, StepStarted)
                if isinstance(event, Text) and event.author == victim and steps > after_steps and not done:
                    done = True
                    busy = next(state.name for state in pools[victim].replicas if state.answers)
                    pid = next(server.pid for server in servers[victim] if server.name == busy)
                    os.kill(pid, signal.SIGKILL)
                if isinstance(event, Finished):
                    return event.trace if event.trace.error is None else None
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    hows, proxies = asyncio.run(
        random_faults(arguments.answers, arguments.share, at_once=arguments.at_once, seed=arguments.seed)
    )
    random_s = time.perf_counter() - begun
    requests = sum(proxy.requests for proxy in proxies)
    faults = sum((proxy.faults for proxy in proxies), Counter[str]())
    kills = asyncio.run(killed(arguments.kills))
    kinds = ("same", "tie", "different", "failed")
    print(
        table(
            ["answers", *kinds], [["random", *map(hows.__getitem__, kinds)], ["killed", *map(kills.__getitem__, kinds)]]
        )
    )
    print(table(["fault", "times"], sorted(faults.items())))
    figures = {
        "answers": arguments.answers,
        "finished_share": (hows["same"] + hows["tie"]) / arguments.answers,
        "ties": hows["tie"],
        "requests": requests,
        "fault_share": faults.total() / requests,
        "amplification": requests / (requests - faults.total()),
        "killed_same": kills["same"] + kills["tie"],
        "killed": arguments.kills,
    }
    save("faults", {**figures, "random": hows, "killed_by_outcome": kills, "faults": faults, "random_s": random_s})
    print(key_values(**figures))


if __name__ == "__main__":
    main()
