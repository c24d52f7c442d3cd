"""Speculation under routing: large alone and glimpse, each with and without the small model as the large one's draft.

    python -m benchmarks.speculation [--engine llamacpp] [--engine hf] [--speculate 4] [--rounds 5] [--no-warm]

The tiny pair answers the same questions four ways (and by small alone, which tells what a draft token costs), in turn,
question by question, at temperature 0. Speculation pays where a round (so many tokens drafted, one pass that verifies
them) costs less than the tokens that come of it would cost one by one; the second table holds both sides of that.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

import uvloop

from benchmarks.report import key_values, median_and_range, save, table
from glimprouter.config import Routing, Sampling
from glimprouter.flow.request import ask
from glimprouter.flow.trace import Trace
from glimprouter.pair import TINY_LARGE, TINY_SMALL, open_pair, profile_threshold
from glimprouter.router import Router

GREEDY = Sampling(temperature=0.0)
MOST_TOKENS = 300
SEED = 4711


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer. `speculates`: the large model has the small one propose."""

    name: str
    policy: str
    speculates: bool = False

    @property
    def key(self) -> str:
        return self.name.replace(" + ", "_").replace(" ", "_")


ALONE = Way("large alone", "large")
LARGE_HELPED = Way("large + speculation", "large", speculates=True)
GLIMPSE = Way("glimpse", "glimpse")
GLIMPSE_HELPED = Way("glimpse + speculation", "glimpse", speculates=True)
SMALL = Way("small alone", "small")
WAYS = (ALONE, LARGE_HELPED, GLIMPSE, GLIMPSE_HELPED, SMALL)


@dataclass(slots=True)
class Account:
    """What one way cost: wall time of each round (the sum over its questions), and the traces of the last round."""

    walls_ms: list[float] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    @property
    def wall_ms(self) -> float:
        return statistics.median(self.walls_ms)

    @property
    def tokens(self) -> int:
        return sum(_tokens(trace) for trace in self.traces)

    def of_large(self, count: str) -> int:
        return sum(int(getattr(trace.large, count)) for trace in self.traces)


def questions(count: int) -> list[str]:
    """Of the kinds that the tiny pair was trained on."""
    rng = random.Random(SEED)
    drawn = []
    for number in range(count):
        a, b, c = (rng.randint(2, 99) for _ in range(3))
        drawn.append(
            (
                f"Solve the following multiplication: {a} * {b}. Give only the result as your final answer.",
                f"State the final answer to the following arithmetic problem: {a} + {b} - {c} =",
                f"State the final answer to the following arithmetic problem: {a} - {b} + {c} =",
            )[number % 3]
        )
    return drawn


@asynccontextmanager
async def routers(engine: str, speculate: int) -> AsyncIterator[dict[bool, Router]]:
    """A router without speculation and one with it, each on engines of its own."""
    models = files("glimprouter.models")
    places = [str(models / name) for name in (TINY_SMALL, TINY_LARGE)] if engine == "hf" else [None, None]
    threshold_nats = profile_threshold(TINY_SMALL, TINY_LARGE)
    async with open_pair(*places) as plain, open_pair(*places, speculate=speculate) as helped:
        yield {
            speculates: Router(pair.small, pair.large, threshold_nats=threshold_nats)
            for speculates, pair in ((False, plain), (True, helped))
        }


async def measure(engine: str, *, speculate: int, asked: list[str], rounds: int, warm: bool) -> dict[Way, Account]:
    accounts = {way: Account() for way in WAYS}
    async with routers(engine, speculate) as by_speculation:
        for number in range(rounds + 1):  # the first warms up
            walls_ms = dict.fromkeys(WAYS, 0.0)
            for account in accounts.values():
                account.traces = []
            for place, question in enumerate(asked):
                turn = (place + number) % len(WAYS)
                for way in WAYS[turn:] + WAYS[:turn]:
                    routing = Routing(
                        policy=way.policy,
                        answer_by="small" if way is SMALL else "large",
                        max_thinking_tokens=MOST_TOKENS,
                        max_answer_tokens=MOST_TOKENS,
                        warm=warm,
                    )
                    request = ask(question, routing=routing, sampling=GREEDY)
                    begun = time.perf_counter()
                    trace = await by_speculation[way.speculates].answer(request)
                    walls_ms[way] += (time.perf_counter() - begun) * 1000
                    accounts[way].traces.append(trace)
            if number:
                for way, account in accounts.items():
                    account.walls_ms.append(walls_ms[way])
    return accounts


def figures(engine: str, speculate: int, accounts: dict[Way, Account]) -> dict[str, Any]:
    """Everything that is shown, and what every round took."""
    return {
        "engine": engine,
        "speculate": speculate,
        "ways": {way.key: _way_figures(account, accounts[ALONE]) for way, account in accounts.items()},
        "costs": _costs(accounts),
        "same_texts": {
            "large": _same_texts(accounts[ALONE], accounts[LARGE_HELPED]),
            "glimpse": _same_texts(accounts[GLIMPSE], accounts[GLIMPSE_HELPED]),
        },
        "questions": len(accounts[ALONE].traces),
        "fastest": min((way for way in WAYS if way is not SMALL), key=lambda way: accounts[way].wall_ms).key,
    }


def _way_figures(account: Account, alone: Account) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(account.walls_ms, alone.walls_ms, strict=True)]
    drafted = account.of_large("drafted_tokens")
    return {
        "wall_ms": account.wall_ms,
        "walls_ms": account.walls_ms,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens": account.tokens,
        "tokens_per_s": account.tokens / account.wall_ms * 1000,
        "large_tokens": account.of_large("new_tokens"),
        "discarded_tokens": account.of_large("discarded_tokens"),
        "drafted_tokens": drafted,
        "acceptance": account.of_large("accepted_tokens") / drafted if drafted else 0.0,
    }


def _costs(accounts: dict[Way, Account]) -> dict[str, float]:
    """A round of large + speculation, and the same tokens one by one. The pass that verifies is what remains of the
    wall time without the drafted tokens, at what small alone takes for one."""
    alone, helped, small = accounts[ALONE], accounts[LARGE_HELPED], accounts[SMALL]
    drafted, accepted = helped.of_large("drafted_tokens"), helped.of_large("accepted_tokens")
    drawn = helped.of_large("new_tokens") + helped.of_large("discarded_tokens")
    passes = max(1, drawn - accepted)  # each adds a token of the large model's own
    draft_ms = small.wall_ms / max(1, small.tokens)
    verify_ms = (helped.wall_ms - drafted * draft_ms) / passes
    return {
        "large_token_ms": alone.wall_ms / max(1, alone.tokens),
        "draft_token_ms": draft_ms,
        "drafted_per_round": drafted / passes,
        "verify_ms": verify_ms,
        "tokens_per_round": drawn / passes,
        "speculating_token_ms": helped.wall_ms / max(1, helped.tokens),
    }


def _tokens(trace: Trace) -> int:
    return sum(len(step.ids) for step in trace.steps) + (len(trace.answer.ids) if trace.answer else 0)


def _same_texts(one: Account, other: Account) -> int:
    """Outside the engines' exact mode a pass over several tokens rounds otherwise than one over each."""
    return sum(
        [step.ids for step in first.steps] == [step.ids for step in second.steps]
        for first, second in zip(one.traces, other.traces, strict=True)
    )


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['engine']}, {result['questions']} questions, {result['speculate']} tokens proposed at a time")
    rows = []
    for way in WAYS:
        one = result["ways"][way.key]
        acceptance = f"{one['acceptance']:.2f}" if one["drafted_tokens"] else "-"
        shares = f"{one['large_tokens'] / one['tokens']:.2f}"
        ratio = median_and_range(one["ratios"])
        rows.append([way.name, ratio, f"{one['tokens_per_s']:.0f}", shares, acceptance, one["discarded_tokens"]])
    print(table(["", "wall / large alone", "tokens/s", "large share", "accepted", "discarded"], rows))
    costs = result["costs"]
    print(
        f"a round drafts {costs['drafted_per_round']:.2f} tokens of {costs['draft_token_ms']:.2f} ms and verifies them "
        f"in {costs['verify_ms']:.2f} ms; {costs['tokens_per_round']:.2f} tokens come of it, "
        f"{costs['speculating_token_ms']:.2f} ms each; large alone takes {costs['large_token_ms']:.2f} ms a token"
    )
    same = result["same_texts"]
    print(f"same thought with and without: large {same['large']}, glimpse {same['glimpse']} of {result['questions']}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=("llamacpp", "hf"))
    parser.add_argument("--speculate", type=int, default=4)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-warm", dest="warm", action="store_false", help="the idle model does not read along")
    options = parser.parse_args()
    results = []
    for engine in options.engine or ["llamacpp"]:
        accounts = await measure(
            engine,
            speculate=options.speculate,
            asked=questions(options.questions),
            rounds=options.rounds,
            warm=options.warm,
        )
        results.append(figures(engine, options.speculate, accounts))
        show(results[-1])
    save("speculation", {"engines": results, "torch": _versions("torch", "transformers")})
    for result in results:
        ways = result["ways"]
        print(
            key_values(
                engine=result["engine"],
                large_speculation_ratio=ways[LARGE_HELPED.key]["ratio"],
                glimpse_ratio=ways[GLIMPSE.key]["ratio"],
                glimpse_speculation_ratio=ways[GLIMPSE_HELPED.key]["ratio"],
                acceptance=ways[LARGE_HELPED.key]["acceptance"],
                fastest=result["fastest"],
            )
        )


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    uvloop.run(main())
