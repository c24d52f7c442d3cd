"""glimprouter against the published loop on the same engines, question by question in turn.

    python -m benchmarks.published_loop [--engine vllm|llamacpp-tiny|llamacpp ...] [--rounds 5]

The published loop, in our own writing: two blocking requests per step. A probe asks the small model for one token and
its 20 log-probabilities and throws the token away; then whoever is to write the step is sent the whole text again, and
writes up to the next blank line. Prompts are text, joined by us at no cost and tokenised by the server each time. It
has one kept-alive connection to each server and no client library, so that it is as fast as such a loop can be.

Both sides: temperature 0, the same threshold, no least length of a step, a cold start for every question. Wall time is
that of the thought; the answer is left out.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import aiohttp
import orjson
import uvloop

from benchmarks.paced_gguf import write_paced_pair
from benchmarks.report import key_values, save, table
from benchmarks.schedule import THRESHOLD_NATS
from glimprouter.config import SIDES, Routing, Sampling, Side, model_at
from glimprouter.engines.http import HttpEngine
from glimprouter.engines.servers import open_server
from glimprouter.evaluate.suites.drawing import draw
from glimprouter.flow.answer import Started, StepFinished
from glimprouter.flow.glimpse import entropy_of
from glimprouter.flow.prompt import Prompter
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import TINY_LARGE, TINY_SMALL, open_pair, profile_threshold
from glimprouter.router import Router
from tests.vllm.job import vllm_python
from tests.vllm.server import serving as serving_vllm

TOP = 20
GREEDY = Sampling(temperature=0.0)
STEP_TOKENS = 512
PACED_THOUGHT_TOKENS = 800
MOST_STEPS = 400
BOUNDARY = "\n\n"
CLOSE = "</think>"
DISPLACING_TEXT = "Nothing of this is asked: it takes the place of the question before in the engines' caches."


@dataclass
class Cost:
    """One thought as one side wrote it. The opening request counts; `requests` of the answer do not."""

    text: str = ""
    wall_ms: float = 0.0
    steps: int = 0
    large_steps: int = 0
    requests: int = 0
    warm_requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    discarded_tokens: int = 0
    warm_tokens: int = 0

    @property
    def read_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


# The published loop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    text: str
    closed: bool
    logprobs: list[float]
    prompt_tokens: int
    cached_tokens: int


class Wire(Protocol):
    """How one kind of server is asked by text."""

    path: str

    def body(self, prompt: str, *, max_tokens: int, top: int, stop: Sequence[str]) -> dict[str, Any]: ...
    def read(self, reply: dict[str, Any]) -> Reply: ...


class LlamacppWire:
    path = "/completion"

    def body(self, prompt: str, *, max_tokens: int, top: int, stop: Sequence[str]) -> dict[str, Any]:
        options = {"n_predict": max_tokens, "n_probs": top, "stop": list(stop)}
        return {"prompt": prompt, "temperature": 0.0, "samplers": ["temperature"], "cache_prompt": True} | options

    def read(self, reply: dict[str, Any]) -> Reply:
        probabilities = reply.get("completion_probabilities") or [{"top_logprobs": []}]
        closed = reply["stop_type"] == "eos" or reply["stopping_word"] == CLOSE
        text = reply["content"] + (reply["stopping_word"] or (CLOSE if closed else ""))
        logprobs = [entry["logprob"] for entry in probabilities[0]["top_logprobs"]]
        return Reply(text, closed, logprobs, reply["tokens_evaluated"], reply["timings"]["cache_n"])


class VllmWire:
    path = "/v1/completions"

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, prompt: str, *, max_tokens: int, top: int, stop: Sequence[str]) -> dict[str, Any]:
        options = {"max_tokens": max_tokens, "stop": list(stop), "include_stop_str_in_output": True}
        return {
            "model": self._model,
            "prompt": prompt,
            "temperature": 0.0,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            **({"logprobs": top} if top else {}),
            **options,
        }

    def read(self, reply: dict[str, Any]) -> Reply:
        choice, usage = reply["choices"][0], reply["usage"]
        ended = choice["finish_reason"] == "stop" and not choice.get("stop_reason")
        text = choice["text"] + (CLOSE if ended else "")
        tops = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Reply(text, text.endswith(CLOSE), list(tops[0].values()), usage["prompt_tokens"], cached)


@dataclass
class Server:
    """One server, asked by text, one blocking request at a time."""

    url: str
    wire: Wire
    session: aiohttp.ClientSession
    cost: Cost = field(default_factory=Cost)

    async def ask(self, prompt: str, *, max_tokens: int, top: int = 0, stop: Sequence[str] = ()) -> Reply:
        body = orjson.dumps(self.wire.body(prompt, max_tokens=max_tokens, top=top, stop=stop))
        async with self.session.post(self.url + self.wire.path, data=body) as response:
            data = await response.read()
        if response.status != 200:
            raise SystemExit(f"{self.url} answered {response.status}: {data[:200]!r}")
        reply = self.wire.read(orjson.loads(data))
        self.cost.requests += 1
        self.cost.prompt_tokens += reply.prompt_tokens
        self.cost.cached_tokens += reply.cached_tokens
        return reply


async def think_published(servers: dict[Side, Server], prompt: str, threshold_nats: float) -> Cost:
    """Step by step: probe, decide, write; until the thought is closed."""
    cost = Cost()
    for server in servers.values():
        server.cost = cost
    begun = time.perf_counter()
    closed = False
    while not closed and cost.steps < MOST_STEPS:
        probe = await servers["small"].ask(prompt + cost.text, max_tokens=1, top=TOP)
        pivot = entropy_of(probe.logprobs, len(probe.logprobs)).entropy_nats > threshold_nats
        writer = servers["large" if pivot else "small"]
        step = await writer.ask(prompt + cost.text, max_tokens=STEP_TOKENS, stop=(BOUNDARY, CLOSE))
        cost.steps += 1
        cost.large_steps += pivot
        cost.text += step.text
        closed = step.closed
    cost.wall_ms = (time.perf_counter() - begun) * 1000
    return cost


# Ours ----------------------------------------------------------------------------------------------------------------


async def think_routed(router: Router, question: str, threshold_nats: float) -> Cost:
    """The thought through the router; it is left before the answer begins."""
    routing = Routing(threshold=threshold_nats, min_step_tokens=0, max_thinking_tokens=100_000)
    trace: Trace | None = None
    async with aclosing(router.stream(ask(question, routing=routing, sampling=GREEDY))) as events:
        async for event in events:
            if isinstance(event, Started):
                trace = event.trace
            elif isinstance(event, StepFinished) and trace and trace.thought_ms:
                break
    assert trace is not None
    return cost_of(trace)


def cost_of(trace: Trace) -> Cost:
    usages = (trace.small, trace.large)
    return Cost(
        text="".join(step.text for step in trace.steps),
        wall_ms=trace.thought_ms,
        steps=len(trace.steps),
        large_steps=sum(step.author == "large" for step in trace.steps),
        requests=sum(usage.calls for usage in usages),
        warm_requests=sum(usage.warm_calls for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        discarded_tokens=sum(usage.discarded_tokens for usage in usages),
        warm_tokens=sum(usage.warm_tokens for usage in usages),
    )


# Both, in turn -------------------------------------------------------------------------------------------------------


@dataclass
class Contest:
    """Questions put to both sides in turn, the order drawn anew each time."""

    name: str
    small: HttpEngine
    large: HttpEngine
    wires: dict[Side, Wire]
    questions: list[str]
    threshold_nats: float
    rounds: list[dict[str, list[Cost]]] = field(default_factory=list)

    async def run(self, rounds: int) -> None:
        engines: dict[Side, HttpEngine] = {"small": self.small, "large": self.large}
        router, prompter = Router(self.small, self.large), Prompter(self.small, self.large)
        async with AsyncExitStack() as stack:
            servers: dict[Side, Server] = {}
            for side in SIDES:
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {engines[side].key or ''}"}
                session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
                servers[side] = Server(engines[side].url, self.wires[side], session)
            order = random.Random(0)
            for number in range(rounds + 1):
                costs: dict[str, list[Cost]] = {"loop": [], "ours": []}
                for question in self.questions:
                    text = await self.small.decode((await prompter.open(ask(question)))["small"].ids)
                    for side_name in order.sample(["loop", "ours"], 2):
                        await self._displace(f"{number}/{side_name}/{question[:20]}")
                        if side_name == "loop":
                            cost = await think_published(servers, text, self.threshold_nats)
                        else:
                            cost = await think_routed(router, question, self.threshold_nats)
                        costs[side_name].append(cost)
                if number:  # the first round warms up
                    self.rounds.append(costs)

    async def _displace(self, salt: str) -> None:
        """Whatever the question before left in caches that hold one answer goes."""
        for engine in (self.small, self.large):
            await engine.prefill(await engine.encode(f"{salt} {DISPLACING_TEXT}"))

    def figures(self) -> dict[str, Any]:
        """Ratios ours / loop: of medians over questions within a round, then the median over rounds."""
        ratios = [total(one["ours"], "wall_ms") / total(one["loop"], "wall_ms") for one in self.rounds]
        ours = [cost for one in self.rounds for cost in one["ours"]]
        loop = [cost for one in self.rounds for cost in one["loop"]]
        pairs = list(zip(ours, loop, strict=True))
        return {
            "engine": self.name,
            "questions": len(self.questions),
            "rounds": len(self.rounds),
            "threshold_nats": self.threshold_nats,
            "wall_ratio": statistics.median(ratios),
            "wall_ratio_low": min(ratios),
            "wall_ratio_high": max(ratios),
            "same_text_share": sum(a.text.strip() == b.text.strip() for a, b in pairs) / len(pairs),
            "large_step_share": total(ours, "large_steps") / total(ours, "steps"),
            "steps_per_thought": total(ours, "steps") / len(ours),
            "requests_per_step": (total(ours, "requests") - len(ours)) / total(ours, "steps"),
            "loop_requests_per_step": total(loop, "requests") / total(loop, "steps"),
            "warm_requests_per_step": total(ours, "warm_requests") / total(ours, "steps"),
            "prompt_tokens_ratio": total(ours, "prompt_tokens") / total(loop, "prompt_tokens"),
            "read_tokens_ratio": (total(ours, "read_tokens") + total(ours, "warm_tokens")) / total(loop, "read_tokens"),
            "discarded_tokens_per_step": total(ours, "discarded_tokens") / total(ours, "steps"),
            "ms_per_step": total(ours, "wall_ms") / total(ours, "steps"),
            "loop_ms_per_step": total(loop, "wall_ms") / total(loop, "steps"),
        }


def total(costs: Sequence[Cost], name: str) -> float:
    return float(sum(getattr(cost, name) for cost in costs))


def shown(figures: dict[str, Any]) -> str:
    rows = [(key, value) for key, value in figures.items() if key != "engine"]
    return f"{figures['engine']}\n{table(('figure', 'value'), rows)}\n"


# Where the engines come from -----------------------------------------------------------------------------------------


async def tiny_contest(questions: list[str]) -> tuple[AsyncExitStack, Contest]:
    stack = AsyncExitStack()
    pair = await stack.enter_async_context(open_pair(exact=True))
    assert isinstance(pair.small, HttpEngine)
    assert isinstance(pair.large, HttpEngine)
    assert pair.threshold_nats is not None
    wires: dict[Side, Wire] = {side: LlamacppWire() for side in SIDES}
    return stack, Contest("llamacpp-tiny", pair.small, pair.large, wires, questions, pair.threshold_nats)


async def vllm_contest(questions: list[str]) -> tuple[AsyncExitStack, Contest]:
    """Two vLLM servers on the tiny pair: those given, or two of our own."""
    stack = AsyncExitStack()
    python = vllm_python()
    if python is None:
        raise SystemExit("vLLM is not set up; `make test-vllm` sets it up")
    models = files("glimprouter.models")
    wanted = [(Path(str(models / name)), name, 2048) for name in (TINY_SMALL, TINY_LARGE)]
    small_url, large_url = stack.enter_context(serving_vllm(*wanted, python=str(python)))
    small = await open_server(small_url, model_at(small_url), side="small")
    stack.push_async_callback(small.close)
    large = await open_server(large_url, model_at(large_url), side="large")
    stack.push_async_callback(large.close)
    facts = [await engine.facts() for engine in (small, large)]
    wires: dict[Side, Wire] = {side: VllmWire(fact.model) for side, fact in zip(SIDES, facts, strict=True)}
    threshold = profile_threshold(TINY_SMALL, TINY_LARGE)
    assert threshold is not None
    return stack, Contest("vllm", small, large, wires, questions, threshold)


async def paced_contest(questions: list[str]) -> tuple[AsyncExitStack, Contest]:
    """Two llama.cpp servers on models of about 5 and 25 ms a token that write a recorded schedule."""
    stack = AsyncExitStack()
    folder = Path(stack.enter_context(TemporaryDirectory()))
    small_path, large_path, _ = write_paced_pair(folder, thought_tokens=PACED_THOUGHT_TOKENS)
    pair = await stack.enter_async_context(open_pair(str(small_path), str(large_path)))
    assert isinstance(pair.small, HttpEngine)
    assert isinstance(pair.large, HttpEngine)
    wires: dict[Side, Wire] = {side: LlamacppWire() for side in SIDES}
    return stack, Contest("llamacpp", pair.small, pair.large, wires, questions[:1], THRESHOLD_NATS)


CONTESTS = {"vllm": vllm_contest, "llamacpp-tiny": tiny_contest, "llamacpp": paced_contest}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=list(CONTESTS))
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = []
    questions = [problem.question for problem in draw("report", options.questions)]
    for name in options.engine or CONTESTS:
        stack, contest = await CONTESTS[name](questions)
        async with stack:
            await contest.run(options.rounds)
        results.append(contest.figures())
        print(shown(results[-1]), flush=True)
    save("published_loop", {"engines": results})
    for result in results:
        names = ("engine", "wall_ratio", "requests_per_step", "prompt_tokens_ratio")
        print(key_values(**{name: result[name] for name in names}))


if __name__ == "__main__":
    uvloop.run(main())
