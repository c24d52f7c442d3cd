"""The paced device takes as long as a server with one GPU would."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks import virtual_time
from glimprouter.config import Sampling
from glimprouter.engines.paced import Device, Pace, Writing
from glimprouter.engines.scripted import ScriptedEngine
from glimprouter.engines.slots import shared_tokens
from glimprouter.flow.engine import Usage

PACE = Pace(first_token_ms=90, token_ms=10, prefill_token_ms=1, block_tokens=16)


async def timed_read(device: Device, ids: list[int]) -> tuple[int, float]:
    """What was cached, and how many milliseconds the reading took."""
    begun = asyncio.get_running_loop().time()
    cached = await device.read(ids)
    return cached, round((asyncio.get_running_loop().time() - begun) * 1000, 6)


def test_only_whole_blocks_are_cached_and_the_last_block_of_a_full_hit_is_read_again() -> None:
    async def main() -> list[tuple[int, float]]:
        device = Device(PACE, asyncio.sleep)
        ids = list(range(40))
        return [await timed_read(device, prompt) for prompt in (ids, ids, ids[:32], [*ids, 1, 2, 3], [*ids[:20], 7])]

    assert virtual_time.run(main()) == [(0, 130), (32, 98), (16, 106), (32, 101), (16, 95)]


def test_tokens_written_after_a_prompt_are_cached_with_it() -> None:
    async def main() -> int:
        device, ids = Device(PACE, asyncio.sleep), list(range(16))
        await device.read(ids)
        ids += range(16, 50)
        return await device.read([*ids, 99])

    assert virtual_time.run(main()) == 48


def test_every_call_waits_in_the_queue_before_anything_else() -> None:
    async def main() -> tuple[int, float]:
        return await timed_read(Device(Pace(first_token_ms=90, queue_ms=300), asyncio.sleep), [1, 2, 3])

    assert virtual_time.run(main()) == (0, 390)


def test_a_reading_under_way_delays_the_tokens_and_prompts_of_others() -> None:
    async def main() -> dict[str, float]:
        loop, device, seen = asyncio.get_running_loop(), Device(PACE, asyncio.sleep), dict[str, float]()

        async def note(name: str, at_ms: float, ids: list[int] | None = None) -> None:
            await asyncio.sleep(at_ms / 1000)
            await (Writing(device).token() if ids is None else device.read(ids))
            seen[name] = round(loop.time() * 1000, 6)

        long = list(range(1000, 1100))
        await asyncio.gather(
            note("long", 0, long), note("token", 100), note("short", 20, [5]), note("same", 30, [*long, 1])
        )
        return seen

    # long: 90 to 190. token: waits until then. short: ready at 110, waits. same: finds the long one's blocks.
    assert virtual_time.run(main()) == {"long": 190, "token": 200, "short": 191, "same": 196}


def test_a_reading_given_up_goes_on_when_begun_and_never_begins_otherwise() -> None:
    async def main() -> list[tuple[int, float]]:
        device, seen = Device(PACE, asyncio.sleep), []
        for ids, after_s in ((list(range(40)), 0.1), (list(range(100, 140)), 0.05)):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(after_s):
                    await device.read(ids)
            await asyncio.sleep(1)
            seen.append(await timed_read(device, ids))
        return seen

    assert virtual_time.run(main()) == [(32, 98), (0, 130)]


def test_with_a_clock_tokens_are_written_while_nobody_takes_them() -> None:
    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), list[float]()
        writing = Writing(Device(PACE, asyncio.sleep, loop.time))
        await asyncio.sleep(0.025)
        seen.append(writing.waiting_tokens())
        for _ in range(4):
            await writing.token()
            seen.append(round(loop.time() * 1000, 6))
        return seen

    assert virtual_time.run(main()) == [2, 25, 25, 30, 40]


def test_without_a_clock_a_token_is_written_when_it_is_asked_for() -> None:
    async def main() -> float:
        writing = Writing(Device(PACE, asyncio.sleep))
        await asyncio.sleep(0.025)
        await writing.token()
        assert writing.waiting_tokens() == 0
        return round(asyncio.get_running_loop().time() * 1000, 6)

    assert virtual_time.run(main()) == 35


def test_a_stream_left_early_counts_the_tokens_nobody_took() -> None:
    async def main() -> tuple[int, int]:
        clock = asyncio.get_running_loop().time
        engine = ScriptedEngine(["a b c d e f.\n\n"], pace=PACE, clock=clock)
        ids, usage = await engine.encode("<think>\n", special=True), Usage()
        async with engine.generate(ids, Sampling(), max_tokens=5, top=0, usage=usage) as stream:
            await anext(stream)
            await asyncio.sleep(0.02)
            taken = usage.generated_tokens
        return taken, usage.generated_tokens

    assert virtual_time.run(main()) == (1, 3)


@pytest.mark.parametrize("seed", range(20))
def test_the_common_prefix_is_found_as_a_loop_would_find_it(seed: int) -> None:
    draw = random.Random(seed)
    first = [draw.randrange(3) for _ in range(draw.randrange(60))]
    second = first[: draw.randrange(len(first) + 1)] + [draw.randrange(3) for _ in range(draw.randrange(20))]
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert shared_tokens(first, second) == shared_tokens(second, first) == expected
