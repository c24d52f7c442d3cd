"""What the router itself costs: CPU per streamed token and per engine call, against a server that replays bytes.

    python -m benchmarks.overhead [--rounds 7] [--tokens 4000]

CPU time is this process's alone (user and system); the server runs in another and sends one recorded event after the
other, far enough apart that each wakes us by itself. Everything the router does is in it: reading the socket, parsing
20 log-probabilities, splitting, routing, the trace, the caller's events. Whole answers are run, on uvloop:

- small: one stream of TOKENS tokens with log-probabilities; its CPU per token is `token_us`
- large: the same without log-probabilities, as the large model's tokens come
- hand-overs: every second step by the large model; what CPU is left beyond the tokens of both, per call, is `call_us`
- bare: the same bytes of the first, received by a protocol that does nothing with them; it is in the other figures too
- growth: the same hand-overs over the last 1,000 tokens of thoughts of 1,000, 8,000 and 32,000
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
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.report import key_values, save, table
from glimprouter.config import Routing, model_at
from glimprouter.engines import open_engine
from glimprouter.flow.answer import Started, StepFinished
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


async def think(router: Router, routing: Routing, *, last_tokens: int = 0) -> Run:
    """One thought; what is left of the answer is not counted. `last_tokens`: only so much of its end is."""
    trace: Trace | None = None
    begin_after = max(0, routing.max_thinking_tokens - last_tokens) if last_tokens else 0
    begun = Run(time.process_time() * 1e6, 0, 0, 0, 0)
    counting = not begin_after
    async with aclosing(router.stream(ask("Why?", routing=routing))) as events:
        async for event in events:
            if isinstance(event, Started):
                trace = event.trace
            elif isinstance(event, StepFinished) and trace:
                if trace.thought_ms:
                    break
                if not counting and trace.thought_tokens() >= begin_after:
                    begun, counting = so_far(trace), True
    # Streams that were open are accounted for when they close.
    assert trace is not None
    ended = so_far(trace)
    return Run(*(getattr(ended, one.name) - getattr(begun, one.name) for one in fields(Run)))


def so_far(trace: Trace) -> Run:
    return Run(
        time.process_time() * 1e6,
        trace.thought_tokens("small"),
        trace.thought_tokens("large"),
        trace.small.calls + trace.large.calls,
        len(trace.steps),
    )


async def bare_us(url: str, tokens: int) -> float:
    """CPU per token of receiving a stream and nothing else."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    class Nothing(asyncio.Protocol):
        received = 0

        def data_received(self, _: bytes) -> None:
            self.received += 1
            if self.received >= tokens and not ended.done():
                ended.set_result(None)

    address = urlsplit(url)
    begun = time.process_time()
    transport, _ = await loop.create_connection(Nothing, address.hostname or "", address.port or 0)
    body = b'{"stream":true,"n_probs":20}'
    transport.write(b"POST /completion HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await ended
    transport.abort()
    return (time.process_time() - begun) / tokens * 1e6


async def measure(url: str, router: Router, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds, the kinds of run in turn."""
    lone = replace(PLAIN, max_thinking_tokens=tokens)
    figures: dict[str, list[float]] = {"token_us": [], "large_token_us": [], "call_us": [], "bare_us": []}
    for number in range(rounds + 1):
        alone = await think(router, replace(lone, policy="small", answer_by="small"))
        plain = await think(router, replace(lone, policy="large"))
        both = await think(router, lone)
        token_us, large_token_us = alone.cpu_us / alone.small_tokens, plain.cpu_us / plain.large_tokens
        # The glimpse of a pivot is drawn beside the tokens of its step.
        small_tokens = both.small_tokens + both.steps // 2
        rest_us = both.cpu_us - small_tokens * token_us - both.large_tokens * large_token_us
        if number:
            figures["token_us"].append(token_us)
            figures["large_token_us"].append(large_token_us)
            figures["call_us"].append(rest_us / both.calls)
            figures["bare_us"].append(await bare_us(url, tokens))
    return {name: statistics.median(values) for name, values in figures.items()} | {"rounds": figures}


async def grow(router: Router, rounds: int, figures: dict[str, Any]) -> list[dict[str, float]]:
    """CPU per call over the last 1,000 tokens of a thought that long."""
    rows = []
    for tokens in GROWTH_TOKENS:
        times = []
        for _ in range(rounds):
            run = await think(router, replace(PLAIN, max_thinking_tokens=tokens), last_tokens=1_000)
            own_us = (run.small_tokens + run.steps // 2) * figures["token_us"]
            own_us += run.large_tokens * figures["large_token_us"]
            times.append((run.cpu_us - own_us) / run.calls)
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
        router = Router(small, large)
        figures = await measure(url, router, options.tokens, options.rounds)
        if not options.no_growth:
            figures["growth"] = await grow(router, max(3, options.rounds // 2), figures)
        await small.close()
        await large.close()
    names = ("token_us", "large_token_us", "bare_us", "call_us")
    print(table(("CPU in the router", "us"), [(name, figures[name]) for name in names]))
    if "growth" in figures:
        rows = [(row["thought_tokens"], row["call_us"]) for row in figures["growth"]]
        print(table(("thought tokens", "us a call"), rows))
    save("overhead", {"dialect": options.dialect} | figures)
    print(key_values(**{name: figures[name] for name in names}))


if __name__ == "__main__":
    uvloop.run(main())
