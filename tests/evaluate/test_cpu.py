"""CPU time counts the children that were there when the meter was made, and is honest about what it cannot see."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from glimprouter.evaluate.cpu import CpuMeter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

BUSY = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\nwhile True: time.sleep(9)"


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_busy_child_is_counted() -> None:
    with child(BUSY) as process:
        meter = CpuMeter()
        before = meter.read_ms()
        assert process.stdout is not None
        process.stdout.readline()
        after = meter.read_ms()
    assert before is not None
    assert after is not None
    assert after - before > 100


def test_a_child_that_is_gone_leaves_no_number_rather_than_a_wrong_one() -> None:
    with child(BUSY):
        meter = CpuMeter()
        assert meter.read_ms() is not None
    assert meter.read_ms() is None


def test_this_process_counts() -> None:
    meter = CpuMeter()
    before = meter.read_ms() or 0.0
    sum(number * number for number in range(200_000))
    assert (meter.read_ms() or 0.0) > before
