"""Virtual time passes for the coroutines and for nobody else."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks import virtual_time


def test_sleeps_timeouts_and_the_clock_agree() -> None:
    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), []
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        seen.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(11)
        seen.append(loop.time())
        return seen

    begun = time.perf_counter()
    assert virtual_time.run(main()) == [pytest.approx(7200), pytest.approx(7210)]
    assert time.perf_counter() - begun < 60


def test_timers_fire_in_their_order_and_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        loop, seen = asyncio.get_running_loop(), []

        async def note(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time()))

        await asyncio.gather(note("late", 0.3), note("early", 0.1), note("between", 0.2))
        return seen

    names, times = zip(*virtual_time.run(main()), strict=True)
    assert names == ("early", "between", "late")
    assert times == pytest.approx((0.1, 0.2, 0.3))


def test_waiting_for_what_never_comes_is_an_error_and_no_standstill() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        virtual_time.run(main())
