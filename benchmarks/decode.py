"""How fast each model of a local pair decodes by itself: blocking calls and streams, interleaved, medians, ratios.

    python benchmarks/decode.py [--small S.gguf --large L.gguf] [--tokens 40] [--rounds 25]

The time of a call with one token is taken off, so that reading the prompt does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from glimprouter.config import SIDES, Sampling
from glimprouter.engines.http import HttpEngine
from glimprouter.flow.engine import Usage
from glimprouter.pair import open_pair

WAYS = ("blocking", "streamed", "streamed with 20 logprobs")
SAMPLING = Sampling(temperature=0.0)
QUESTION = "State the final answer to the following arithmetic problem: 62 + 34 - 58 ="


async def call_ms(engine: HttpEngine, way: str, ids: list[int], max_tokens: int) -> tuple[float, int]:
    """Wall time of one call, and how many tokens it drew."""
    usage = Usage()
    begun = time.perf_counter()
    if way == "blocking":
        drawn = len((await engine.complete(ids, SAMPLING, max_tokens=max_tokens, usage=usage)).ids)
    else:
        top = 20 if "logprobs" in way else 0
        async with engine.generate(ids, SAMPLING, max_tokens=max_tokens, top=top, usage=usage) as tokens:
            drawn = sum([token.id >= 0 async for token in tokens])
    return (time.perf_counter() - begun) * 1000, drawn


async def token_ms(engine: HttpEngine, way: str, ids: list[int], tokens: int) -> float:
    """Milliseconds of one further token."""
    first_ms, _ = await call_ms(engine, way, ids, 1)
    whole_ms, drawn = await call_ms(engine, way, ids, tokens)
    return (whole_ms - first_ms) / max(1, drawn - 1)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small")
    parser.add_argument("--large")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    times: dict[tuple[str, str], list[float]] = {}
    async with open_pair(options.small, options.large) as pair:
        engines = dict(zip(SIDES, (pair.small, pair.large), strict=True))
        prompt = [{"role": "user", "content": QUESTION}]
        for number in range(options.rounds + 1):
            for side, engine in engines.items():
                assert isinstance(engine, HttpEngine)
                ids = await engine.encode_prompt(prompt)
                for way in WAYS:
                    measured = await token_ms(engine, way, ids, options.tokens)
                    if number:  # the first round warms up
                        times.setdefault((side, way), []).append(measured)
    medians = {key: statistics.median(values) for key, values in times.items()}
    print(f"{'ms a token':<28}{'small':>8}{'large':>8}{'large / small':>15}")
    for way in WAYS:
        small, large = medians["small", way], medians["large", way]
        print(f"{way:<28}{small:>8.3f}{large:>8.3f}{large / small:>15.2f}")
    print(
        " ".join(f"{way.replace(' ', '_')}_ratio={medians['large', way] / medians['small', way]:.3f}" for way in WAYS)
    )


if __name__ == "__main__":
    asyncio.run(main())
