"""What the router itself costs: CPU per streamed token and per engine call, against a server that replays bytes.

    python -m benchmarks.overhead [--rounds 7] [--tokens 4000]

CPU time is this process's alone (user and system); the server runs in another and sends one recorded event after the
other, far enough apart that each wakes us by itself. Everything the router does is in it: reading the socket, parsing
20 log-probabilities, splitting, routing, the trace, the caller's events. Whole answers are run, on uvloop:

- small: one stream of TOKENS tokens with log-probabilities; its CPU per token is `token_us`
- large: the same without log-probabilities, as the large model's tokens come
- hand-overs: every second step by the large model; what CPU is left beyond the tokens of both, per call, is `call_us`
- growth: the same hand-overs at thoughts of 1,000, 8,000 and 32,000 tokens
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from benchmarks.report import key_values, save, table
from glimprouter.config import Routing, model_at
from glimprouter.engines import open_engine
from glimprouter.flow.answer import Started, StepFinished
from glimprouter.flow.engine import Engine
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.router import Router

GAP_US = 150
STEP_TOKENS = 34
GROWTH_TOKENS = (1_000, 8_000, 32_000)
PLAIN = Routing(threshold=0.5, min_step_tokens=0, warm=False)


@dataclass(frozen=True)
class Run:
    """The thought of one answer: what it cost and what it held."""

    cpu_us: float
    small_tokens: int
    large_tokens: int
    calls: int
    steps: int


@asynccontextmanager
async def replayed(dialect: str, *, step_tokens: int = STEP_TOKENS, gap_us: float = GAP_US) -> AsyncIterator[str]:
    """The address of a replay server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.replay_server", dialect, str(step_tokens), str(gap_us)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


async def think(small: Engine, large: Engine, routing: Routing) -> Run:
    """One thought; what is left of the answer is not counted."""
    trace: Trace | None = None
    begun = time.process_time()
    async with aclosing(Router(small, large).stream(ask("Why?", routing=routing))) as events:
        async for event in events:
            if isinstance(event, Started):
                trace = event.trace
            elif isinstance(event, StepFinished) and trace and trace.thought_ms:
                break
    cpu_us = (time.process_time() - begun) * 1e6
    assert trace is not None
    calls = trace.small.calls + trace.large.calls
    return Run(cpu_us, trace.thought_tokens("small"), trace.thought_tokens("large"), calls, len(trace.steps))


async def measure(small: Engine, large: Engine, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, the kinds of run in turn."""
    lone = replace(PLAIN, max_thinking_tokens=tokens)
    figures: dict[str, list[float]] = {"token_us": [], "large_token_us": [], "call_us": []}
    for number in range(rounds + 1):
        alone = await think(small, large, replace(lone, policy="small", answer_by="small"))
        plain = await think(small, large, replace(lone, policy="large"))
        both = await think(small, large, lone)
        token_us, large_token_us = alone.cpu_us / alone.small_tokens, plain.cpu_us / plain.large_tokens
        # The glimpse of a pivot is drawn beside the tokens of its step.
        small_tokens = both.small_tokens + both.steps // 2
        rest_us = both.cpu_us - small_tokens * token_us - both.large_tokens * large_token_us
        if number:
            figures["token_us"].append(token_us)
            figures["large_token_us"].append(large_token_us)
            figures["call_us"].append(rest_us / both.calls)
    return {name: statistics.median(values) for name, values in figures.items()} | {"rounds": figures}


async def grow(small: Engine, large: Engine, rounds: int, figures: dict[str, Any]) -> list[dict[str, float]]:
    """CPU per call while the thought is that long: between it and 1,000 tokens less."""
    rows = []
    for tokens in GROWTH_TOKENS:
        times = []
        for _ in range(rounds):
            longer = await think(small, large, replace(PLAIN, max_thinking_tokens=tokens))
            shorter = await think(small, large, replace(PLAIN, max_thinking_tokens=max(1, tokens - 1_000)))
            calls = longer.calls - shorter.calls
            own_us = (longer.small_tokens - shorter.small_tokens) * figures["token_us"]
            own_us += (longer.large_tokens - shorter.large_tokens) * figures["large_token_us"]
            times.append((longer.cpu_us - shorter.cpu_us - own_us) / max(1, calls))
        rows.append({"thought_tokens": tokens, "call_us": statistics.median(times)})
    return rows


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=4_000)
    parser.add_argument("--dialect", default="llamacpp")
    parser.add_argument("--no-growth", action="store_true")
    options = parser.parse_args()
    async with replayed(options.dialect) as url:
        small = await open_engine(model_at(url), side="small")
        large = await open_engine(model_at(url), side="large")
        figures = await measure(small, large, options.tokens, options.rounds)
        if not options.no_growth:
            figures["growth"] = await grow(small, large, max(3, options.rounds // 2), figures)
        await small.close()
        await large.close()
    names = ("token_us", "large_token_us", "call_us")
    print(table(("CPU in the router", "us"), [(name, figures[name]) for name in names]))
    if "growth" in figures:
        rows = [(row["thought_tokens"], row["call_us"]) for row in figures["growth"]]
        print(table(("thought tokens", "us a call"), rows))
    save("overhead", {"dialect": options.dialect} | figures)
    print(key_values(**{name: figures[name] for name in names}))


if __name__ == "__main__":
    uvloop.run(main())
